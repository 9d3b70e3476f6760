//! The operator page: by hand, and in a real browser.

use reqwest::{Response, StatusCode, redirect};
use serde_json::json;
use shared::id::Kind;
use support::services::Browser;
use support::world::{Builder, World};

use crate::dead_letters::{actions, letters, refused, rule, runs};
use crate::failures::impatient;
use crate::ledger::outcome;

const TOKEN: &str = "page-token-of-the-test-world";

fn with_a_page() -> Builder {
    impatient().env("SYNC_PAGE_TOKEN", TOKEN)
}

/// Somebody who looks at the page, with whatever they have to show.
struct Operator {
    http: reqwest::Client,
    page: String,
    cookie: Option<String>,
    bearer: Option<String>,
}

impl Operator {
    fn of(world: &mut World) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build();
        let page = format!("http://{}/operator", world.worker(0).admin());
        Self { http: http.expect("a client"), page, cookie: None, bearer: None }
    }

    async fn signed_in(world: &mut World) -> Self {
        let mut operator = Self::of(world);
        let answer = operator.post("/sign-in", &[("token", TOKEN)]).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        operator.cookie = cookie.split(';').next().map(str::to_owned);
        operator
    }

    async fn get(&self, path: &str) -> Response {
        self.send(self.http.get(format!("{}{path}", self.page))).await
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.send(self.form(path, fields)).await
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut url = reqwest::Url::parse("http://form/").expect("a url");
        url.query_pairs_mut().extend_pairs(fields);
        self.http
            .post(format!("{}{path}", self.page))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(url.query().unwrap_or_default().to_owned())
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> Response {
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        request.send().await.expect("an answer")
    }

    async fn reads(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.expect("a page")
    }
}

/// The value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let field = format!("name=\"{name}\" value=\"");
    let (_, rest) = page.split_once(&field).unwrap_or_else(|| panic!("no field {name} in {page}"));
    rest.split_once('"').expect("its end").0.to_owned()
}

#[tokio::test]
async fn without_a_token_in_the_settings_there_is_no_page() {
    let mut world = impatient().start().await;
    let operator = Operator::of(&mut world);
    for path in ["", "/dead-letters", "/style.css"] {
        assert_eq!(operator.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(operator.post(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn without_the_token_nobody_comes_in() {
    let mut world = with_a_page().start().await;
    let mut operator = Operator::of(&mut world);
    for path in ["", "/dead-letters", "/dead-letters/1", "/confirm?action=discard", "/elsewhere"] {
        let answer = operator.get(path).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let policy = headers["content-security-policy"].to_str().expect("a policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("script-src"), "{policy}");
    }
    assert_eq!(operator.post("/act", &[]).await.status(), StatusCode::UNAUTHORIZED);
    let wrong = operator.post("/sign-in", &[("token", "a-guess-of-somebody")]).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers().get("set-cookie").is_none());
    operator.cookie = Some("workos_sync_operator=0123".to_owned());
    assert_eq!(operator.get("").await.status(), StatusCode::UNAUTHORIZED);
    operator.cookie = None;
    operator.bearer = Some("another-guess".to_owned());
    assert_eq!(operator.get("").await.status(), StatusCode::UNAUTHORIZED);
    operator.bearer = Some(TOKEN.to_owned());
    assert!(operator.reads("").await.contains("How things stand"));
    let log = world.worker(0).logs();
    assert!(!log.contains("guess") && !log.contains(TOKEN), "tokens are not logged");
}

#[tokio::test]
async fn whoever_signs_out_is_out() {
    let mut world = with_a_page().start().await;
    let operator = Operator::signed_in(&mut world).await;
    let csrf = hidden(&operator.reads("").await, "csrf");
    assert_eq!(operator.post("/sign-out", &[("csrf", &csrf)]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(operator.get("").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_form_that_is_not_of_the_session_does_nothing() {
    let mut world = with_a_page().start().await;
    refused(&world, 1).await;
    let operator = Operator::signed_in(&mut world).await;
    let other = Operator::signed_in(&mut world).await;
    let csrf = hidden(&operator.reads("").await, "csrf");
    let foreign = hidden(&other.reads("").await, "csrf");
    let order = |csrf| {
        [
            ("csrf", csrf),
            ("action", "discard"),
            ("count", "1"),
            ("through", "1"),
            ("why", "x"),
            ("yes", "yes"),
        ]
    };
    assert_eq!(operator.post("/act", &order("")[1..]).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(operator.post("/act", &order("")).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(operator.post("/act", &order(&foreign)).await.status(), StatusCode::FORBIDDEN);
    for (name, value) in [("origin", "https://elsewhere.example"), ("sec-fetch-site", "cross-site")] {
        let form = operator.form("/act", &order(&csrf)).header(name, value);
        assert_eq!(operator.send(form).await.status(), StatusCode::FORBIDDEN, "{name}");
    }
    let got = operator.get("/act?action=discard").await.status();
    assert_eq!(got, StatusCode::NOT_FOUND, "nothing is done by looking");
    assert_eq!(letters(&world).await.len(), 1);
    assert!(runs(&world).await.is_empty() && actions(&world).await.is_empty());
    assert_eq!(
        operator.post("/act", &order(&csrf)).await.status(),
        StatusCode::SEE_OTHER,
        "with its own it goes"
    );
    let gone = async || letters(&world).await.is_empty().then_some(());
    world.eventually("the dead letter to be gone", gone).await;
}

#[tokio::test]
async fn a_discard_wants_the_exact_count_and_a_reason_and_is_recorded() {
    let mut world = with_a_page().start().await;
    let users = refused(&world, 3).await;
    let operator = Operator::signed_in(&mut world).await;
    let asked = operator.reads("/confirm?action=discard&reason=row_refused").await;
    assert!(asked.contains("Discard 3 dead letters: 3 row_refused?"), "{asked}");
    let (csrf, through) = (hidden(&asked, "csrf"), hidden(&asked, "through"));
    let order = |count: &'static str, why: &'static str, yes: &'static str| {
        [
            ("csrf", csrf.clone()),
            ("action", "discard".to_owned()),
            ("reason", "row_refused".to_owned()),
            ("through", through.clone()),
            ("count", count.to_owned()),
            ("actor", "ada".to_owned()),
            ("why", why.to_owned()),
            ("yes", yes.to_owned()),
        ]
    };
    for (count, why, yes, status) in [
        ("2", "left us", "yes", StatusCode::CONFLICT),
        ("", "left us", "yes", StatusCode::BAD_REQUEST),
        ("3", "left us", "", StatusCode::BAD_REQUEST),
        ("3", "  ", "yes", StatusCode::BAD_REQUEST),
    ] {
        let fields = order(count, why, yes);
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(operator.post("/act", &fields).await.status(), status, "{count} {why} {yes}");
    }
    assert_eq!(letters(&world).await.len(), 3, "nothing was done");
    let fields = order("3", "left us", "yes");
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let done = operator.post("/act", &fields).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    let run = done.headers()["location"].to_str().expect("a place").to_owned();
    world
        .eventually("the end of the run", async || {
            (runs(&world).await.last()?.4.as_deref() == Some("done")).then_some(())
        })
        .await;
    let seen = operator.reads(run.strip_prefix("/operator").expect("a place on the page")).await;
    assert!(seen.contains("discard 1: done, 3 of 3"), "{seen}");
    assert!(seen.contains("no dead letters"), "{seen}");
    let counts = json!({"selected": 3, "done": 3, "already": 0});
    assert_eq!(
        runs(&world).await,
        [("discard".into(), Some("ada".into()), Some("left us".into()), counts, Some("done".into()))]
    );
    assert_eq!(outcome(&world, &users[0].1).await.as_deref(), Some("dead"));
    let explained = world.worker_command(&["explain", &users[0].0]).await;
    assert!(
        explained.stdout.contains("discarded") && explained.stdout.contains("ada"),
        "{}",
        explained.stdout
    );
    assert!(operator.reads("").await.contains("ada: left us"), "the first page shows the run");
}

/// Puts a dead letter where they are.
async fn bury(world: &World, event_id: &str, event_type: &str, object_id: &str, reason: &str) {
    let event = json!({
        "id": event_id, "type": event_type, "kind": "user", "operation": "updated", "object_id": object_id,
        "received_at": shared::clock::now(), "channel": "webhook",
    });
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Workos-Reason", reason);
    headers.insert("Workos-Error", reason);
    let payload = event.to_string().into();
    let sent = world.jetstream().publish_with_headers("workos.dlq.test.user.updated", headers, payload);
    sent.await.expect("publish").await.expect("an ack");
}

#[tokio::test]
async fn what_comes_from_outside_is_text_on_the_page() {
    let mut world = with_a_page().start().await;
    let hostile = "<script>alert(1)</script>";
    let (event, object) = (format!("event_{hostile}"), format!("user_\"'{hostile}"));
    bury(&world, &event, &format!("user.{hostile}"), &object, hostile).await;
    let operator = Operator::signed_in(&mut world).await;
    let id = format!("/dead-letters?id={}", "event_%3Cscript%3Ealert(1)%3C/script%3E");
    for path in ["", "/dead-letters", "/dead-letters/1", "/confirm?action=replay", &id] {
        let page = operator.reads(path).await;
        assert!(page.contains("&lt;script&gt;alert(1)"), "{path}: {page}");
        assert!(!page.contains("<script"), "{path}: {page}");
    }
}

#[tokio::test]
async fn a_long_list_is_shown_page_by_page() {
    let mut world = with_a_page().start().await;
    // So many that die of themselves would open the breaker.
    let users: Vec<String> = (0..60).map(|n| format!("user_{n:02}")).collect();
    for user in &users {
        bury(&world, &format!("event_of_{user}"), "user.updated", user, "row_refused").await;
    }
    let operator = Operator::signed_in(&mut world).await;
    let first = operator.reads("/dead-letters?kind=user").await;
    assert!(first.contains("60 dead letters: 60 row_refused"), "{first}");
    let shown = |page: &str| users.iter().filter(|user| page.contains(&format!(">{user}<"))).count();
    assert_eq!(shown(&first), 50);
    let (_, next) = first.split_once("rel=\"next\" href=\"/operator").expect("more");
    let next = next.split_once('"').expect("its end").0.replace("&amp;", "&");
    let second = operator.reads(&next).await;
    assert_eq!(shown(&second), 10);
    assert!(!second.contains("rel=\"next\""), "{second}");
    let one = operator.reads(&format!("/dead-letters?id={}", users[0])).await;
    assert_eq!(shown(&one), 1);
    let none = operator.reads("/dead-letters?reason=crash").await;
    assert!(none.contains("no dead letters"), "{none}");
    assert_eq!(operator.get("/dead-letters?since=soon").await.status(), StatusCode::BAD_REQUEST);
}

/// Waits until the page says so: a click does not always wait for what it loads. Returns all that it says.
async fn shows(world: &World, browser: &Browser, wanted: &str) -> String {
    let look = async || browser.text().await.ok().filter(|text| text.contains(wanted));
    world.eventually(&format!("the page to say `{wanted}`"), look).await
}

/// No page is wider than a phone.
async fn fits(browser: &Browser) {
    let wide = "const all = document.documentElement; return [all.scrollWidth, all.clientWidth]";
    let widths = browser.script(wide).await.expect("widths");
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "it scrolls sideways: {widths}");
}

/// Where a person who wants to look at the pages themselves has them kept: `PAGE_PICTURES=/some/directory`.
async fn picture(browser: &Browser, name: &str) {
    if let Some(directory) = std::env::var_os("PAGE_PICTURES") {
        let picture = browser.picture().await.expect("a picture");
        let file = std::path::Path::new(&directory).join(format!("{name}.png.base64"));
        std::fs::write(file, picture).expect("a file");
    }
}

#[tokio::test]
async fn in_a_browser_without_scripts_on_a_phone_a_dead_letter_is_replayed() {
    let mut world = with_a_page().start().await;
    refused(&world, 3).await;
    rule(&world, "DROP CONSTRAINT no_eve").await;
    let dead = letters(&world).await;
    let told = |n: usize, what: &str| dead[n]["event"][what].as_str().expect("an id").to_owned();
    let (eve, event, another) = (&told(0, "object_id"), &told(0, "id"), told(1, "object_id"));
    let browser = Browser::start().await.expect("a browser");
    let page = format!("http://{}/operator", world.worker(0).admin());
    browser.without_scripts().await.expect("no scripts");
    browser
        .open("data:text/html,<p id=p>quiet</p><script>p.textContent='loud'</script>")
        .await
        .expect("a page");
    assert_eq!(browser.text().await.expect("a text").trim(), "quiet", "scripts are off");

    browser.open(&format!("{page}/dead-letters")).await.expect("a page");
    shows(&world, &browser, "Sign in").await;
    picture(&browser, "sign-in").await;
    browser.type_into("#token", "not-the-token-at-all").await.expect("typed");
    browser.click("button[type=submit]").await.expect("a click");
    shows(&world, &browser, "That is not the token.").await;
    browser.type_into("#token", TOKEN).await.expect("typed");
    browser.click("button[type=submit]").await.expect("a click");
    let overview = shows(&world, &browser, "How things stand").await;
    assert!(overview.contains("row_refused"), "{overview}");
    picture(&browser, "overview-desktop").await;

    browser.as_a_phone().await.expect("a phone");
    browser.reload().await.expect("again");
    fits(&browser).await;
    picture(&browser, "overview-phone").await;
    browser.click("a[href='/operator/dead-letters?reason=row_refused']").await.expect("a click");
    shows(&world, &browser, "3 dead letters: 3 row_refused").await;
    fits(&browser).await;
    picture(&browser, "list-phone").await;
    browser.click("tbody tr:first-child th a").await.expect("a click");
    let shown = shows(&world, &browser, "Sequence in the stream").await;
    assert!(shown.contains(eve.as_str()) && shown.contains(event.as_str()), "{shown}");
    fits(&browser).await;
    picture(&browser, "letter-phone").await;
    browser.click("a[href*='action=replay']").await.expect("a click");
    shows(&world, &browser, "Replay 1 dead letter: 1 row_refused?").await;
    browser.type_into("#actor", "ada").await.expect("typed");
    browser.type_into("#why", "dropped the constraint").await.expect("typed");
    browser.click("#yes").await.expect("a click");
    fits(&browser).await;
    picture(&browser, "confirm-phone").await;
    browser.click("form.panel button").await.expect("a click");
    shows(&world, &browser, "replay 1: ").await;
    fits(&browser).await;

    world
        .eventually("the event to be applied", async || {
            (outcome(&world, event).await.as_deref() == Some("applied")).then_some(())
        })
        .await;
    assert!(world.row(Kind::User, eve).await.is_some());
    let list = world
        .eventually("the dead letter to be gone", async || {
            browser.open(&format!("{page}/dead-letters")).await.ok()?;
            let text = browser.text().await.ok()?;
            (!text.contains(eve.as_str())).then_some(text)
        })
        .await;
    assert!(list.contains("2 dead letters") && list.contains(&another), "{list}");
    assert_eq!(letters(&world).await.len(), 2);
    let ran = runs(&world).await;
    let who =
        ran.iter().map(|(command, actor, why, ..)| (command.as_str(), actor.as_deref(), why.as_deref()));
    assert_eq!(who.collect::<Vec<_>>(), [("replay", Some("ada"), Some("dropped the constraint"))]);
    browser.in_the_dark().await.expect("dark");
    browser.open(&page).await.expect("a page");
    fits(&browser).await;
    picture(&browser, "overview-dark").await;
}
