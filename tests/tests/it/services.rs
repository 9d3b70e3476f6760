//! The servers that stories run on: they start, stop, come back, and never outlive us.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection as _, PgConnection};
use support::services::{Durability, Nats, Place, Postgres};

async fn one(url: &str, query: &'static str) -> sqlx::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar(query).fetch_one(&mut connection).await
}

#[tokio::test]
async fn postgres_keeps_what_it_had_through_stop_and_kill() {
    let place = Place::new("services").unwrap();
    let mut postgres = Postgres::start(place.path(), Durability::Volatile).await.unwrap();
    postgres.create_database("first").await.unwrap();
    let url = postgres.url("first");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 42::bigint AS n").execute(&mut connection).await.unwrap();

    postgres.kill().unwrap();
    sqlx::query("SELECT 1").execute(&mut connection).await.expect_err("the server is dead");
    postgres.start_again().await.unwrap();
    assert_eq!(one(&url, "SELECT n FROM kept").await.unwrap(), 42);

    postgres.stop().await.unwrap();
    one(&url, "SELECT 1").await.expect_err("the server is stopped");
    postgres.start_again().await.unwrap();
    postgres.copy_database("first", "second").await.unwrap();
    assert_eq!(one(&postgres.url("second"), "SELECT n FROM kept").await.unwrap(), 42);
    postgres.drop_database("second").await.unwrap();
    one(&postgres.url("second"), "SELECT 1").await.expect_err("the database is gone");
}

#[tokio::test]
async fn a_paused_postgres_is_silent_and_then_goes_on() {
    let place = Place::new("services").unwrap();
    let mut postgres = Postgres::start(place.path(), Durability::Volatile).await.unwrap();
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();

    postgres.pause().unwrap();
    let answer = sqlx::query_scalar::<_, i64>("SELECT 7::bigint").fetch_one(&mut connection);
    tokio::pin!(answer);
    tokio::time::timeout(Duration::from_millis(200), &mut answer).await.expect_err("nothing answers");

    postgres.resume().unwrap();
    assert_eq!(answer.await.unwrap(), 7);
}

#[tokio::test]
async fn nats_keeps_its_streams_through_stop_and_kill() {
    let place = Place::new("services").unwrap();
    let mut nats = Nats::start(place.path()).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    let mut stream = jetstream.create_stream(config).await.unwrap();
    jetstream.publish("kept", "1".into()).await.unwrap().await.unwrap();

    nats.kill().unwrap();
    nats.start_again().await.unwrap();
    nats.stop().await.unwrap();
    nats.start_again().await.unwrap();

    let started = Instant::now();
    while stream.info().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "the client does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn two_servers_of_a_kind_live_side_by_side() {
    let place = Place::new("services").unwrap();
    let (one, other) = (place.room("one").unwrap(), place.room("other").unwrap());
    let (one, other) = tokio::try_join!(Nats::start(&one), Nats::start(&other)).unwrap();
    assert_ne!(one.port(), other.port());
}

#[tokio::test]
async fn a_server_goes_when_its_owner_is_dropped() {
    let place = Place::new("services").unwrap();
    let path = place.path().to_owned();
    let postgres = Postgres::start(place.path(), Durability::Volatile).await.unwrap();
    let url = postgres.url("postgres");

    drop(postgres);
    drop(place);

    one(&url, "SELECT 1").await.expect_err("the server is gone");
    assert!(!path.exists());
}

/// The child of the next test: starts servers, says where, and waits to be killed.
#[tokio::test]
#[ignore = "run by nothing_outlives_a_test_process_that_was_killed"]
async fn starts_servers_and_waits() {
    let place = Place::new("killed").unwrap();
    let (one, other) = (place.room("postgres").unwrap(), place.room("nats").unwrap());
    let postgres = Postgres::start(&one, Durability::Volatile).await.unwrap();
    let mut paused = Nats::start(&other).await.unwrap();
    paused.pause().unwrap();
    println!("\nstarted {} {} {}", postgres.port(), paused.port(), place.path().display());
    std::future::pending::<()>().await;
}

#[test]
fn nothing_outlives_a_test_process_that_was_killed() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "services::starts_servers_and_waits", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let started = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("started ").map(str::to_owned))
        .expect("servers that started");
    let [postgres, nats, place] = started.split(' ').collect::<Vec<_>>().try_into().unwrap();

    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();

    let listens = |port: &str| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
    let since = Instant::now();
    while listens(postgres) || listens(nats) || std::path::Path::new(place).exists() {
        assert!(since.elapsed() < Duration::from_secs(15), "still there: {started}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
