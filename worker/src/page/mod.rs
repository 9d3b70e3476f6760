//! The operator page on the admin address: how things stand, dead letters, and what to do with them. Off without
//! `SYNC_PAGE_TOKEN`.
//!
//! `door` says who may come in, `form` reads what they ask for, `view` shows it, `work` carries out what they order.
//! It has a small pool of its own, so that whoever looks takes no connection from the consumer.

mod door;
mod form;
mod view;
mod work;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use maud::Markup;
use shared::admin::Readiness;
use shared::config::Secret;
use sqlx::PgPool;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::dead_letter::act::{Action, Order};
use crate::dead_letter::{self, DeadLetter, DeadLetters, Filter};
use crate::failure::Failure;
use crate::standing;
use crate::workos::Rate;
use door::{Door, Refused, Visitor};
use form::{Fields, address};
use work::{Busy, Work};

/// Where it is.
pub const PATH: &str = "/operator";

/// Connections that it may use.
pub const CONNECTIONS: u32 = 2;

/// How long a page may take to gather what it shows.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much a form may hold.
const BODY_MOST: usize = 16 * 1024;
/// With more dead letters than that, a page would hold too many in memory: the command is there for them.
const LETTERS_MOST: u64 = 20_000;
/// Dead letters on a page.
const LETTERS_SHOWN: usize = 50;
/// The newest events, for the outcomes; and how many of them are shown one by one.
const RECENT: i64 = 1_000;
const RECENT_SHOWN: usize = 12;
/// Runs that are shown.
const RUNS_SHOWN: i64 = 8;
/// How long a name or a reason may be.
const WORDS_MOST: usize = 200;

/// What it looks at and works with, once the worker has it.
pub struct Rooms {
    /// `WORKOS_ENV`.
    pub env: String,
    /// A pool of its own.
    pub database: PgPool,
    /// The dead letters.
    pub letters: DeadLetters,
    /// The broker.
    pub jetstream: async_nats::jetstream::Context,
    /// Whether it is open.
    pub breaker: Breaker,
    /// Why nobody asks WorkOS.
    pub unwell: watch::Receiver<Option<Failure>>,
    /// Whether the worker is ready.
    pub readiness: Readiness,
}

/// The page.
pub struct Page {
    door: Door,
    rooms: OnceLock<(Rooms, Work)>,
    /// One at a time reads all dead letters.
    reading: AsyncMutex<()>,
}

/// What is answered instead of what was asked for.
struct Refusal(StatusCode, String);

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        tracing::warn!(error = format!("{error:#}"), "the operator page could not be shown");
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}."))
    }
}

impl Refusal {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }
}

type Answered = Result<Response<Full<Bytes>>, Refusal>;

impl Page {
    /// One that this token opens.
    pub fn new(token: &Secret) -> anyhow::Result<Self> {
        Ok(Self { door: Door::new(token)?, rooms: OnceLock::new(), reading: AsyncMutex::default() })
    }

    /// From now on there is something to be seen. `stop` ends what it does.
    pub fn open(&self, rooms: Rooms, stop: CancellationToken) {
        let work = Work::new(rooms.letters.clone(), rooms.database.clone(), stop);
        let _ = self.rooms.set((rooms, work));
    }

    /// Answers a request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match self.route(request).await {
            Ok(response) => response,
            Err(Refusal(status, text)) => html(status, &view::refusal(status, &text)),
        };
        for (name, value) in [
            (
                "content-security-policy",
                "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            ),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn route(&self, request: Request<Incoming>) -> Answered {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().strip_prefix(PATH).unwrap_or_default().trim_end_matches('/');
        let looks = parts.method == Method::GET || parts.method == Method::HEAD;
        if looks && path == "/style.css" {
            return Ok(stylesheet());
        }
        let now = Instant::now();
        if parts.method == Method::POST && path == "/sign-in" {
            if !door::is_from_here(&parts.headers) {
                return Err(foreign());
            }
            return self.sign_in(&read(body).await?, &parts.headers, now);
        }
        let visitor = match self.door.visitor(&parts.headers, now) {
            Ok(visitor) => visitor,
            Err(refused) => return Ok(outside(refused, false)),
        };
        if looks {
            let fields = Fields::parse(parts.uri.query().unwrap_or_default());
            return self.show(path, &fields, &visitor).await;
        }
        if parts.method != Method::POST {
            return Err(Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "Only GET and POST are answered.".to_owned(),
            ));
        }
        let fields = read(body).await?;
        if !door::is_from_here(&parts.headers) || !visitor.sent(fields.get("csrf").unwrap_or_default()) {
            return Err(foreign());
        }
        match path {
            "/sign-out" => {
                let mut response = see(&address("", &[]));
                set_cookie(&mut response, &self.door.sign_out(&visitor, &parts.headers));
                Ok(response)
            }
            "/act" => self.act(&fields, &visitor).await,
            _ => Err(nothing_here()),
        }
    }

    fn sign_in(&self, fields: &Fields, headers: &HeaderMap, now: Instant) -> Answered {
        match self.door.sign_in(fields.get("token").unwrap_or_default(), headers, now)? {
            Ok(cookie) => {
                let mut response = see(&address("", &[]));
                set_cookie(&mut response, &cookie);
                Ok(response)
            }
            Err(refused) => Ok(outside(refused, true)),
        }
    }

    async fn show(&self, path: &str, fields: &Fields, visitor: &Visitor) -> Answered {
        let (rooms, work) = self.rooms()?;
        let page = match path {
            "" => self.overview(rooms, work, visitor).await,
            "/dead-letters" => self.list(rooms, work, fields, visitor).await?,
            "/confirm" => {
                let action = action(fields)?;
                let filter = fields.filter().map_err(Refusal::bad)?;
                let meant = self.read(&rooms.letters, &filter).await?;
                view::confirm(
                    &rooms.env,
                    visitor,
                    &view::Confirm { action, filter: &filter, meant: &meant, said: None },
                )
            }
            _ => match path.strip_prefix("/dead-letters/").and_then(|seq| seq.parse().ok()) {
                Some(seq) => Self::letter(rooms, seq, visitor).await?,
                None => return Err(nothing_here()),
            },
        };
        Ok(html(StatusCode::OK, &page))
    }

    fn rooms(&self) -> Result<(&Rooms, &Work), Refusal> {
        match self.rooms.get() {
            Some((rooms, work)) => Ok((rooms, work)),
            None => Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "The worker has no connection yet: look at /readyz, and again in a moment.".to_owned(),
            )),
        }
    }

    /// What cannot be told (in time) is left out, and said so.
    async fn overview(&self, rooms: &Rooms, work: &Work, visitor: &Visitor) -> Markup {
        let Rooms { env, database, letters, jetstream, breaker, unwell, readiness } = rooms;
        let all = Filter::default();
        let ((waiting, depth, dead), (open, tail), (recent, runs)) = tokio::join!(
            async {
                (
                    timeout(PATIENCE, standing::waiting(jetstream, env)).await.ok().and_then(Result::ok),
                    timeout(PATIENCE, letters.depth()).await.ok().and_then(Result::ok),
                    self.read(letters, &all).await.ok(),
                )
            },
            async {
                (
                    timeout(PATIENCE, standing::open(database, env)).await.ok().and_then(Result::ok),
                    in_time(standing::tail(database, env)).await.map_err(|_| view::Untold),
                )
            },
            async {
                (
                    timeout(PATIENCE, standing::recent(database, env, RECENT))
                        .await
                        .ok()
                        .and_then(Result::ok),
                    timeout(PATIENCE, standing::runs(database, env, RUNS_SHOWN))
                        .await
                        .ok()
                        .and_then(Result::ok),
                )
            },
        );
        let unwell = unwell.borrow().as_ref().map(ToString::to_string);
        view::overview(
            visitor,
            &view::Overview {
                env,
                trouble: &readiness.reasons(),
                notes: &readiness.notes(),
                breaker_open: breaker.is_open(),
                unwell: unwell.as_deref(),
                waiting,
                depth,
                dead: dead.as_deref(),
                open,
                tail,
                recent,
                runs,
                under_way: work.under_way(),
                broke_off: work.broke_off(),
            },
        )
    }

    async fn list(
        &self,
        rooms: &Rooms,
        work: &Work,
        fields: &Fields,
        visitor: &Visitor,
    ) -> Result<Markup, Refusal> {
        let filter = fields.filter().map_err(Refusal::bad)?;
        let after: u64 = fields.get("after").and_then(|seq| seq.parse().ok()).unwrap_or(0);
        let meant = self.read(&rooms.letters, &filter).await?;
        let begins = meant.partition_point(|letter| letter.seq <= after);
        let shown: Vec<&DeadLetter> = meant.iter().skip(begins).take(LETTERS_SHOWN).collect();
        let run = match fields.get("run").and_then(|id| id.parse().ok()) {
            Some(id) => in_time(standing::run(&rooms.database, &rooms.env, id)).await?,
            None => None,
        };
        Ok(view::list(
            visitor,
            &view::List {
                env: &rooms.env,
                filter: &filter,
                meant: &meant,
                begins,
                shown: &shown,
                run: run.as_ref(),
                under_way: work.under_way(),
            },
        ))
    }

    async fn letter(rooms: &Rooms, seq: u64, visitor: &Visitor) -> Result<Markup, Refusal> {
        let letter = timeout(PATIENCE, rooms.letters.show(seq)).await.map_err(|_| too_slow())??;
        let Some(letter) = letter else {
            return Err(Refusal(
                StatusCode::NOT_FOUND,
                "There is no such dead letter: it was replayed, discarded, or grew too old.".to_owned(),
            ));
        };
        let entry = in_time(dead_letter::entry(&rooms.database, &rooms.env, &letter.event.id)).await?;
        Ok(view::letter(&rooms.env, visitor, &letter, entry.as_ref()))
    }

    async fn act(&self, fields: &Fields, visitor: &Visitor) -> Answered {
        let (rooms, work) = self.rooms()?;
        let action = action(fields)?;
        let filter = fields.filter().map_err(Refusal::bad)?;
        let number = |name| fields.get(name).and_then(|value| value.parse::<u64>().ok());
        let (Some(count), Some(through)) = (number("count"), number("through")) else {
            return Err(Refusal::bad("The form does not say how many dead letters it means."));
        };
        let actor = words(fields.get("actor")).unwrap_or_else(|| "page".to_owned());
        let why = words(fields.get("why"));
        // What died since was not meant. What was meant can only become less.
        let mut meant = self.read(&rooms.letters, &filter).await?;
        meant.retain(|letter| letter.seq <= through);
        let missing = if meant.len() as u64 != count {
            Some((StatusCode::CONFLICT, "They are no longer as many as you were asked about: look again."))
        } else if fields.get("yes") != Some("yes") {
            Some((StatusCode::BAD_REQUEST, "Nothing was done: confirm it."))
        } else if action == Action::Discard && why.is_none() {
            Some((StatusCode::BAD_REQUEST, "Nothing was done: say why, for the record."))
        } else {
            None
        };
        if let Some((status, said)) = missing {
            let asked = view::Confirm { action, filter: &filter, meant: &meant, said: Some(said) };
            return Ok(html(status, &view::confirm(&rooms.env, visitor, &asked)));
        }
        let rate: Rate = fields
            .get("rate")
            .unwrap_or(DEFAULT_RATE)
            .parse()
            .map_err(|()| Refusal::bad("The rate wants to be such as 50/s or 600/m, or off."))?;
        let arguments = serde_json::to_value(&filter).map_err(anyhow::Error::from)?;
        let order = Order { action, actor, why, arguments, rate };
        match work.begin(meant, order).await? {
            Ok(run) => Ok(see(&address("/dead-letters", &[("run", run.to_string())]))),
            Err(Busy) => Err(Refusal(
                StatusCode::CONFLICT,
                "Another replay or discard of this page is under way: nothing was done, try again when it is over."
                    .to_owned(),
            )),
        }
    }

    /// The dead letters that the filter means, if they are not too many to be read by a page.
    async fn read(&self, letters: &DeadLetters, filter: &Filter) -> Result<Vec<DeadLetter>, Refusal> {
        let reading = async {
            let _turn = self.reading.lock().await;
            if letters.depth().await? > LETTERS_MOST {
                return Ok(None);
            }
            letters.list(filter).await.map(Some)
        };
        let read = timeout(PATIENCE, reading).await.map_err(|_| too_slow())??;
        read.ok_or_else(|| {
            Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "There are more than {LETTERS_MOST} dead letters, too many for a page: use `worker dlq`."
                ),
            )
        })
    }
}

/// How many a second, as the command has it.
const DEFAULT_RATE: &str = "50/s";

/// What the database says within a page's patience.
async fn in_time<T>(asked: impl Future<Output = sqlx::Result<T>>) -> Result<T, Refusal> {
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(anyhow::Error::from(crate::database::Trouble::from(error)).into()),
        Err(_) => Err(too_slow()),
    }
}

fn too_slow() -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, "It takes too long just now: try again in a moment.".to_owned())
}

fn foreign() -> Refusal {
    Refusal(
        StatusCode::FORBIDDEN,
        "This form is not of your session, so nothing was done: go back to the page and send it again."
            .to_owned(),
    )
}

fn nothing_here() -> Refusal {
    Refusal(StatusCode::NOT_FOUND, "There is nothing here.".to_owned())
}

fn action(fields: &Fields) -> Result<Action, Refusal> {
    [Action::Replay, Action::Discard]
        .into_iter()
        .find(|action| fields.get("action") == Some(action.command()))
        .ok_or_else(|| Refusal::bad("The action wants to be replay or discard."))
}

/// What a person wrote, for the record: one line, and not too long.
fn words(text: Option<&str>) -> Option<String> {
    let words: String = text?.chars().filter(|c| !c.is_control()).take(WORDS_MOST).collect();
    (!words.is_empty()).then_some(words)
}

async fn read(body: Incoming) -> Result<Fields, Refusal> {
    let collected =
        timeout(PATIENCE, Limited::new(body, BODY_MOST).collect()).await.map_err(|_| too_slow())?;
    match collected {
        Ok(collected) => Ok(Fields::parse(&String::from_utf8_lossy(&collected.to_bytes()))),
        Err(_) => {
            Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "The form is too large, or broke off.".to_owned()))
        }
    }
}

fn outside(refused: Refused, tried: bool) -> Response<Full<Bytes>> {
    match refused {
        Refused::Unknown => {
            let mut response = html(StatusCode::UNAUTHORIZED, &view::sign_in(tried));
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        Refused::TooOften => {
            let text = "There were too many wrong tokens: try again in a minute.";
            let mut response =
                html(StatusCode::TOO_MANY_REQUESTS, &view::refusal(StatusCode::TOO_MANY_REQUESTS, text));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
            response
        }
    }
}

fn html(status: StatusCode, page: &Markup) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.0.clone())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn stylesheet() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(include_bytes!("style.css"))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    response
}

/// Look there now.
fn see(place: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(place) = HeaderValue::from_str(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

fn set_cookie(response: &mut Response<Full<Bytes>>, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}
