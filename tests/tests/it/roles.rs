//! `deploy/roles.sql`: each of the three roles can do its work, and no more.

use std::path::PathBuf;
use std::process::Command;

use shared::id::Kind;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use support::world::World;

/// The database of the application.
const DATABASE: &str = "app";

/// Runs `deploy/roles.sql` as its first lines say.
fn apply(world: &mut World) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/roles.sql");
    let server = world.postgres();
    let applied = Command::new(server.psql())
        .args(["-v", "ON_ERROR_STOP=1", "-v"])
        .arg(format!("dbname={DATABASE}"))
        .arg("-f")
        .arg(&file)
        .arg(server.url(DATABASE))
        .output()
        .expect("psql runs");
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// What Postgres says to a statement: `None` if it is done, else the SQLSTATE.
async fn refusal(url: &str, statement: &str) -> Option<String> {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    let ended = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
    let error = ended.err()?;
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    Some(code.expect("a refusal by Postgres").into_owned())
}

#[tokio::test]
async fn each_role_does_its_work_and_no_more() {
    let mut world = World::builder().private_postgres().workers(0).start().await;
    world.postgres().create_database(DATABASE).await.expect("a database");
    let server = world.postgres();
    let owner = server.url(DATABASE);
    let [migrator, worker, reader] = ["migrator", "worker", "reader"]
        .map(|role| owner.replacen("//postgres@", &format!("//workos_sync_{role}@"), 1));
    apply(&mut world);
    let migrated = world.worker_command_with(&["migrate"], &[("DATABASE_URL", &migrator)]).await;
    assert_eq!(migrated.code(), Some(0), "{}", migrated.stderr);
    // Again, as the file promises.
    apply(&mut world);
    let theirs = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int); INSERT INTO shop.orders VALUES (1)";
    assert_eq!(refusal(&owner, theirs).await, None);

    // The worker: everything that it does.
    let settings = [("DATABASE_URL", worker.as_str()), ("SYNC_TAIL_INTERVAL", "300ms")];
    world.start_worker_with(&settings).await;
    let ada = world.sim().user("ada@example.com");
    let acme = world.sim().organization("Acme");
    world.sim().membership(&ada, &acme);
    let quiet = world.sim().silently_create(Kind::Organization, serde_json::json!({"name": "Quiet"}));
    world.settled().await;
    world.sim().delete(Kind::User, &ada);
    world.settled().await;
    for command in [["backfill"].as_slice(), &["verify", "--repair"], &["status"], &["explain", &acme]] {
        let ended = world.worker_command_with(command, &settings).await;
        assert_eq!(ended.code(), Some(0), "{command:?}: {} {}", ended.stdout, ended.stderr);
    }
    let live = "DO $$ BEGIN ASSERT (SELECT count(*) FROM workos.organizations_live) = 2; \
                ASSERT (SELECT count(*) FROM workos.users WHERE _deleted_at IS NOT NULL) = 1; END $$";
    assert_eq!(refusal(&worker, live).await, None, "{quiet} came by backfill");
    assert!(!world.worker(0).logs().contains("Postgres does not let us"), "{}", world.worker(0).tail());

    // The worker, and no more.
    for statement in [
        "DELETE FROM workos.users",
        "DELETE FROM workos_sync.events",
        "TRUNCATE workos.users CASCADE",
        "DROP TABLE workos.users CASCADE",
        "ALTER TABLE workos.users ADD COLUMN mine int",
        "CREATE TABLE workos.mine (id int)",
        "CREATE SCHEMA mine",
        "SELECT * FROM shop.orders",
        "UPDATE shop.orders SET id = 2",
        "DELETE FROM shop.orders",
    ] {
        let refused = refusal(&worker, statement).await;
        // 42501: insufficient privilege, also said to whoever is not the owner.
        assert_eq!(refused.as_deref(), Some("42501"), "{statement}");
    }

    // The application reads the mirror, and no more.
    assert_eq!(refusal(&reader, "SELECT id, email FROM workos.users_live").await, None);
    assert_eq!(refusal(&reader, "SELECT * FROM workos.organizations").await, None);
    for statement in [
        "SELECT * FROM workos_sync.events",
        "INSERT INTO workos.users (id) VALUES ('user_1')",
        "UPDATE workos.users SET email = 'eve@example.com'",
        "DELETE FROM workos.users",
        "SELECT * FROM shop.orders",
    ] {
        assert_eq!(refusal(&reader, statement).await.as_deref(), Some("42501"), "{statement}");
    }
}
