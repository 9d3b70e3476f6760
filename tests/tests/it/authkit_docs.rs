//! The calls in `docs/authkit-integration.md` work as they stand there.

#[allow(unreachable_pub, reason = "as an application would have it")]
mod sync_user;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::Url;
use shared::id::Kind;
use support::services::port;
use support::world::{SYNC_TOKEN, World};
use tokio::process::Command;

use crate::main_path::by_hand;
use sync_user::sync_user;

const DOCUMENT: &str = include_str!("../../../docs/authkit-integration.md");
const RUST: &str = include_str!("authkit_docs/sync_user.rs");

/// The blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    DOCUMENT.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0)).collect()
}

/// What stands for AuthKit's library, which takes a code to WorkOS before it calls `onSuccess`.
const AUTHKIT: &str = r#"
export const handleAuth = ({ returnPathname, onSuccess }) => async (request) => {
  await onSuccess({ user: { id: new URL(request.url).searchParams.get("code") } });
  return new Response(null, { status: 307, headers: { location: returnPathname } });
};
"#;

/// What a browser does after WorkOS sent it back.
const BROWSER: &str = r#"
import { GET } from "./app/auth/callback/route.js";
const response = await GET(new Request(`https://app.example.com/auth/callback?code=${process.env.USER_ID}`));
console.log(response.status, response.headers.get("location"));
"#;

/// An application made of the blocks, each of which says in its first line which file it is.
fn application(directory: &Path) {
    let write = |path: &str, text: &str| {
        let file = directory.join(path);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        std::fs::write(file, text).expect("a file");
    };
    write("package.json", r#"{"type": "module"}"#);
    write("browser.js", BROWSER);
    let library = "node_modules/@workos-inc/authkit-nextjs";
    write(&format!("{library}/package.json"), r#"{"type": "module", "main": "index.js"}"#);
    write(&format!("{library}/index.js"), AUTHKIT);
    let files = blocks("js");
    assert_eq!(files.len(), 2);
    for file in files {
        let path = file.lines().next().and_then(|line| line.strip_prefix("// ")).expect("the name of a file");
        write(path, file);
    }
}

async fn run(program: &str, argument: &[&str], directory: &Path, ingest: &str, user: &str) -> Output {
    Command::new(program)
        .args(argument)
        .current_dir(directory)
        .env("WORKOS_SYNC_URL", ingest)
        .env("SYNC_TOKEN", SYNC_TOKEN)
        .env("USER_ID", user)
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program} is needed for this story: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where nobody listens.
fn nowhere() -> String {
    format!("http://127.0.0.1:{}", port::free().expect("a free port"))
}

async fn quiet_world() -> World {
    World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await
}

#[tokio::test]
async fn the_callback_of_next_js_makes_the_row_and_goes_on_when_nobody_answers() {
    let world = quiet_world().await;
    let user = world.sim().user("ada@example.com");
    let directory = tempfile::tempdir().expect("a directory");
    application(directory.path());
    let login = |ingest: String| {
        let (directory, user) = (directory.path().to_owned(), user.clone());
        async move { run("node", &["browser.js"], &directory, &ingest, &user).await }
    };
    let output = login(world.ingest_url(0)).await;
    assert_eq!(text(&output.stdout), "307 /dashboard\n", "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    // The browser may have been too quick for a busy machine; the request is stored all the same.
    world.eventually_in_step().await;

    let output = login(nowhere()).await;
    assert_eq!(text(&output.stdout), "307 /dashboard\n");
    assert!(text(&output.stderr).starts_with("sync request failed: "), "{}", text(&output.stderr));
}

#[tokio::test]
async fn the_function_in_rust_makes_the_row_and_says_no_when_nobody_answers() {
    assert_eq!(blocks("rust"), [RUST.trim_end()], "the document and the file that is compiled");
    let world = quiet_world().await;
    let user = world.sim().user("ada@example.com");
    let ingest: Url = world.ingest_url(0).parse().expect("an address");
    assert!(sync_user(world.http(), &ingest, SYNC_TOKEN, &user, Duration::from_secs(30)).await);
    assert!(world.row(Kind::User, &user).await.is_some());
    assert!(!sync_user(world.http(), &ingest, "wrong", &user, Duration::from_secs(1)).await);
    let nowhere: Url = nowhere().parse().expect("an address");
    assert!(!sync_user(world.http(), &nowhere, SYNC_TOKEN, &user, Duration::from_secs(1)).await);
}

#[tokio::test]
async fn the_call_with_curl_makes_the_row() {
    let world = quiet_world().await;
    let user = world.sim().user("ada@example.com");
    let directory = tempfile::tempdir().expect("a directory");
    let [script] = blocks("sh")[..] else { panic!("one script") };
    let output = run("sh", &["-c", script], directory.path(), &world.ingest_url(0), &user).await;
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let promised = ["{\"outcome\":\"applied\",\"status\":\"done\"}", "{\"status\":\"queued\"}"];
    assert!(promised.contains(&said.as_str()), "{said}");
    assert!(DOCUMENT.contains(promised[0]));
    world.eventually_in_step().await;
}
