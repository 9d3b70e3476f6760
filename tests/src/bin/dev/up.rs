//! Everything on this machine, until Ctrl-C.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use shared::exit::Exit;
use shared::id::Kind;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use support::services::{Durability, Nats, Place, Postgres, Program, binaries};
use support::sim::{Sim, SimConfig};
use support::world::{Mirror, mirror};
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::summary::{Summary, Verdict};
use crate::{Up, company, print};

/// How long the mirror may take to follow once WorkOS is quiet.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a command such as `worker migrate` or `worker verify` may take.
const COMMAND: Duration = Duration::from_mins(10);

/// What signs the simulator's webhooks.
const SECRET: &str = "whsec_development";

/// The database's name.
const DATABASE: &str = "workos";

/// Settings of the programs that are passed on when they are set.
const PASSED_ON: [&str; 6] = ["SYNC_", "INGEST_", "WORKER_", "OTEL_", "RUST_LOG", "LOG_FORMAT"];

/// Runs until the time is over or somebody stops it.
pub(crate) async fn run(arguments: &Up) -> anyhow::Result<Exit> {
    let Some(workos) = WorkOs::from_env() else { return Ok(Exit::Usage) };
    let stop = shared::shutdown::on_signal().context("failed to listen to signals")?;
    let session = tokio::select! {
        session = Session::start(workos, arguments) => session?,
        () = stop.cancelled() => return Ok(Exit::No),
    };
    session.live(arguments, &stop).await
}

/// Which WorkOS it is.
enum WorkOs {
    Simulated,
    Real { secret: String },
}

impl WorkOs {
    /// `None` when the settings contradict each other; it has been said how.
    fn from_env() -> Option<Self> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (set("WORKOS_API_KEY"), set("WORKOS_WEBHOOK_SECRET")) {
            (None, None) => Some(Self::Simulated),
            (Some(_), Some(secret)) => Some(Self::Real { secret }),
            (Some(_), None) => {
                print::aside(
                    "WORKOS_API_KEY is set, so this is the real WorkOS: set WORKOS_WEBHOOK_SECRET as well",
                );
                None
            }
            (None, Some(_)) => {
                print::aside(
                    "WORKOS_WEBHOOK_SECRET is set, so this is the real WorkOS: set WORKOS_API_KEY as well",
                );
                None
            }
        }
    }
}

/// What runs. Dropped in this order.
struct Session {
    ingest: Program,
    worker: Program,
    /// None: the real WorkOS.
    sim: Option<Sim>,
    env: String,
    worker_settings: Vec<(String, String)>,
    pool: PgPool,
    mirror: Mirror,
    nats: Nats,
    postgres: Postgres,
    place: Place,
}

impl Session {
    async fn start(workos: WorkOs, arguments: &Up) -> anyhow::Result<Self> {
        let started = Instant::now();
        print::heading("Starting Postgres, NATS, ingest and worker");
        // Cargo may have something to build; better before the servers wait for it.
        tokio::task::spawn_blocking(binaries::directory).await.context("the build was interrupted")??;
        let place = Place::new("up")?;
        let (postgres_room, nats_room) = (place.room("postgres")?, place.room("nats")?);
        let (postgres, nats) =
            tokio::try_join!(Postgres::start(&postgres_room, Durability::Durable), Nats::start(&nats_room))?;
        postgres.create_database(DATABASE).await?;

        let env = std::env::var("WORKOS_ENV").unwrap_or_else(|_| "development".to_owned());
        let passed_on =
            std::env::vars().filter(|(name, _)| PASSED_ON.iter().any(|start| name.starts_with(start)));
        let mut common: Vec<(String, String)> = passed_on.collect();
        common.push(("WORKOS_ENV".to_owned(), env.clone()));
        common.push(("NATS_URL".to_owned(), nats.url()));
        let (sim, secret) = match &workos {
            WorkOs::Simulated => (Some(Sim::start(SimConfig::default())?), SECRET.to_owned()),
            WorkOs::Real { secret } => (None, secret.clone()),
        };
        let ingest_settings = [common.clone(), vec![("WORKOS_WEBHOOK_SECRET".to_owned(), secret)]].concat();
        let mut worker_settings = common;
        worker_settings.push(("DATABASE_URL".to_owned(), postgres.url(DATABASE)));
        worker_settings.extend(workos_settings(sim.as_ref()));

        migrate(place.path(), &worker_settings).await?;
        let mut ingest = Program::ingest(place.path(), "ingest", &ingest_settings)?;
        let mut worker = Program::worker(place.path(), "worker", &worker_settings)?;
        tokio::try_join!(ingest.ready(), worker.ready())?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect(&postgres.url(DATABASE))
            .await
            .context("failed to connect to Postgres")?;
        let mirror = Mirror::read(&pool).await?;
        print::aside(format_args!("ready after {:.1} s", started.elapsed().as_secs_f64()));

        let session = Self { ingest, worker, sim, env, worker_settings, pool, mirror, nats, postgres, place };
        session.fill().await?;
        session.introduce(arguments.json);
        Ok(session)
    }

    /// The mirror's first rows: the simulated company moves in, or everything is listed.
    async fn fill(&self) -> anyhow::Result<()> {
        let Some(sim) = &self.sim else {
            print::heading("Listing everything in WorkOS (worker backfill)");
            let listed =
                Program::run(self.place.path(), "worker", &["backfill"], &self.worker_settings, COMMAND)
                    .await?;
            return listed.success().context("worker backfill failed").map(drop);
        };
        let started = Instant::now();
        sim.add_endpoint(&self.webhook_url(), SECRET);
        sim.seed(&company::BEGINNING);
        let differences = self.differences(sim).await?;
        if differences.is_empty() {
            let objects: usize = Kind::ALL.map(|kind| sim.count(kind)).iter().sum();
            print::aside(format_args!(
                "a company of {objects} objects moved in, and every webhook became its row, in {:.0} ms",
                started.elapsed().as_secs_f64() * 1000.0
            ));
        } else {
            print::aside(format_args!(
                "after {PATIENCE:?} {}the worker says\n{}",
                mirror::listing(&differences),
                self.worker.tail()
            ));
        }
        Ok(())
    }

    /// Where everything is, and what to try.
    fn introduce(&self, json: bool) {
        let say = |text: String| if json { print::aside(text) } else { print::line(text) };
        let database = self.postgres.url(DATABASE);
        let workos = match &self.sim {
            Some(sim) => format!("{}  simulated; its world is under /_sim/", sim.url()),
            None => "the real one".to_owned(),
        };
        say(format!(
            "
  WorkOS      {workos}
  ingest      {}
  metrics     http://{}/metrics  http://{}/metrics
  Postgres    {database}
  NATS        {}
  logs        {}  {}

Look at the mirror:

  {} {database} -c \"SELECT o.name AS organization, u.email, m.role_slug FROM workos.organization_memberships_live m \
JOIN workos.users_live u ON u.id = m.user_id JOIN workos.organizations_live o ON o.id = m.organization_id ORDER BY 1, 2\"
",
            self.webhook_url(),
            self.ingest.admin(),
            self.worker.admin(),
            self.nats.url(),
            self.ingest.log().display(),
            self.worker.log().display(),
            self.postgres.psql().display(),
        ));
        let (secret, user) = match &self.sim {
            Some(sim) => ("'whsec_development'", company::any(sim, Kind::User)),
            None => ("\"$WORKOS_WEBHOOK_SECRET\"", None),
        };
        let event = match &user {
            Some(user) => json!({"event": "user.updated", "data": {"object": "user", "id": user}}),
            None => json!({"event": "hello.world", "data": {}}),
        };
        say(format!("Send a signed webhook:\n\n{}\n", signed_curl(&self.webhook_url(), secret, &event)));
        match (&self.sim, user) {
            (Some(sim), Some(user)) => say(format!(
                "Change something in WorkOS:\n\n  curl -sS -X PATCH {}/_sim/objects/user/{user} --data '{{\"first_name\":\"Zoe\"}}'\n",
                sim.url()
            )),
            _ => say(format!(
                "For webhooks, lead a tunnel to {} and add <its address>/webhooks/workos in the WorkOS dashboard.\n\
                 There is no simulator to compare with: `worker verify` says in the end whether the mirror is in step.\n",
                self.ingest.url().unwrap_or_default()
            )),
        }
    }

    fn webhook_url(&self) -> String {
        format!("{}/webhooks/workos", self.ingest.url().unwrap_or_default())
    }

    /// A line per change until the end, then the summary.
    async fn live(mut self, arguments: &Up, stop: &CancellationToken) -> anyhow::Result<Exit> {
        let over = async {
            match arguments.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let changing = async {
            match &self.sim {
                Some(sim) => company::live(sim).await,
                None => std::future::pending().await,
            }
        };
        let mut live = Live::new(&self.pool, &self.env, arguments.json).await?;
        tokio::select! {
            watched = live.watch() => watched?,
            () = changing => {}
            () = over => {}
            () = stop.cancelled() => {}
        }

        let verdict = self.verdict().await;
        live.catch_up().await?;
        let summary = Summary::read(&self.pool, &self.env, live.since(), verdict).await?;
        summary.print(arguments.json);
        if !summary.in_step() {
            print::aside(format_args!(
                "\ningest says\n{}\nworker says\n{}",
                self.ingest.tail(),
                self.worker.tail()
            ));
        }
        // A program that does not leave when asked is killed with the session.
        for program in [&mut self.ingest, &mut self.worker] {
            if let Err(error) = program.terminate().await {
                print::aside(format_args!("{error:#}"));
            }
        }
        Ok(if summary.in_step() { Exit::Success } else { Exit::No })
    }

    async fn verdict(&self) -> Verdict {
        let compared = match &self.sim {
            Some(sim) => self.differences(sim).await,
            None => return self.verified().await,
        };
        match compared {
            Ok(differences) if differences.is_empty() => Verdict::InStep,
            Ok(differences) => Verdict::Differs(differences),
            Err(error) => Verdict::Unknown(format!("{error:#}")),
        }
    }

    /// Waits until there is no difference, as long as that makes sense.
    async fn differences(&self, sim: &Sim) -> anyhow::Result<Vec<String>> {
        let started = Instant::now();
        loop {
            let quiet = sim.pending_deliveries() == 0;
            let differences = self.mirror.differences(&self.pool, sim, &self.env).await?;
            if quiet && differences.is_empty() || started.elapsed() > PATIENCE {
                return Ok(differences);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks the real WorkOS.
    async fn verified(&self) -> Verdict {
        let verify =
            Program::run(self.place.path(), "worker", &["verify"], &self.worker_settings, COMMAND).await;
        match verify {
            Ok(verify) if verify.code() == Some(0) => Verdict::InStep,
            Ok(verify) if verify.code() == Some(1) => {
                Verdict::Differs(verify.stdout.lines().map(str::to_owned).collect())
            }
            Ok(verify) => Verdict::Unknown(format!("worker verify could not tell: {}", verify.stderr.trim())),
            Err(error) => Verdict::Unknown(format!("{error:#}")),
        }
    }
}

/// What a worker needs to know of WorkOS.
fn workos_settings(sim: Option<&Sim>) -> Vec<(String, String)> {
    if let Some(sim) = sim {
        return vec![
            ("WORKOS_API_BASE_URL".to_owned(), sim.url().to_owned()),
            ("WORKOS_API_KEY".to_owned(), sim.api_key().to_owned()),
        ];
    }
    ["WORKOS_API_BASE_URL", "WORKOS_API_KEY"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect()
}

/// Applies the migrations as an operator does.
async fn migrate(directory: &Path, settings: &[(String, String)]) -> anyhow::Result<()> {
    let migrated = Program::run(directory, "worker", &["migrate"], settings, COMMAND).await?;
    migrated.success().context("worker migrate failed").map(drop)
}

/// A command that signs when it is run, so that its time is right whenever that is.
fn signed_curl(url: &str, secret: &str, event: &serde_json::Value) -> String {
    let data = &event["data"];
    let name = &event["event"];
    format!(
        "  T=$(date +%s)000; B='{{\"object\":\"event\",\"id\":\"event_'$T'\",\"event\":{name},\"data\":{data}}}'; \\\n  \
         S=$(printf %s \"$T.$B\" | openssl dgst -sha256 -hmac {secret} | sed 's/.* //'); \\\n  \
         curl -sS -i {url} -H 'content-type: application/json' -H \"workos-signature: t=$T, v1=$S\" --data-raw \"$B\""
    )
}
