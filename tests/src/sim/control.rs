//! The control API under `/_sim/`, for demonstrations and for the binary: what tests do by calls, over
//! HTTP and without a key.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::faults::Failure;
use super::knobs::Knobs;
use super::{Company, Sim};

/// Larger requests are refused.
const MAX_BODY: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEndpoint {
    url: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvent {
    event: String,
    data: Value,
}

pub(super) async fn respond(sim: &Sim, request: Request<Incoming>) -> Reply {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Reply::message(400, &error.to_string()),
    };
    answer(sim, &method, &path, &body).await.unwrap_or_else(|refusal| refusal)
}

async fn answer(sim: &Sim, method: &Method, path: &str, body: &Bytes) -> Result<Reply, Reply> {
    let words: Vec<&str> = path.trim_start_matches("/_sim/").split('/').collect();
    let value = match (method.as_str(), words.as_slice()) {
        ("POST", ["objects", kind]) => {
            let kind = parse_kind(kind)?;
            let id = sim.create(kind, parse(body)?);
            sim.get(kind, &id).unwrap_or(Value::Null)
        }
        ("PATCH", ["objects", kind, id]) => {
            let kind = parse_kind(kind)?;
            found(sim.get(kind, id))?;
            sim.update(kind, id, parse(body)?);
            sim.get(kind, id).unwrap_or(Value::Null)
        }
        ("GET", ["objects", kind, id]) => found(sim.get(parse_kind(kind)?, id))?,
        ("DELETE", ["objects", kind, id]) => {
            json!({"event": found(sim.delete(parse_kind(kind)?, id))?})
        }
        ("GET", ["state"]) => {
            let all = Kind::ALL.map(|kind| (kind.name().to_owned(), Value::Array(sim.all(kind))));
            Value::Object(all.into_iter().collect::<Map<_, _>>())
        }
        ("POST", ["sign_in", user]) => json!({"found": sim.sign_in(user)}),
        ("POST", ["endpoints"]) => {
            let NewEndpoint { url, secret } = parse(body)?;
            json!({"id": sim.add_endpoint(&url, &secret)})
        }
        ("DELETE", ["endpoints", id]) => json!({"found": sim.remove_endpoint(id)}),
        ("GET", ["events"]) => json!(sim.events()),
        ("POST", ["events"]) => {
            let NewEvent { event, data } = parse(body)?;
            json!({"id": sim.emit(&event, data)})
        }
        ("POST", ["deliver", event]) => match sim.post(event).await {
            Ok(statuses) => json!({"statuses": statuses}),
            Err(error) => return Err(Reply::message(404, &error.to_string())),
        },
        ("POST", ["release_held"]) => {
            sim.release_held();
            json!({"pending": sim.pending_deliveries()})
        }
        ("GET", ["pending"]) => json!({"pending": sim.pending_deliveries()}),
        ("GET", ["knobs"]) => json!(sim.knobs()),
        ("PUT", ["knobs"]) => {
            sim.set_knobs(parse::<Knobs>(body)?);
            json!(sim.knobs())
        }
        // `null` ends it.
        ("PUT", ["outage"]) => {
            let failure: Option<Failure> = parse(body)?;
            sim.outage(failure);
            json!({"outage": failure})
        }
        ("GET", ["requests"]) => sim.requests().to_json(),
        ("DELETE", ["requests"]) => {
            sim.reset_counters();
            sim.requests().to_json()
        }
        ("POST", ["seed"]) => {
            sim.seed(&parse::<Company>(body)?);
            let counts = Kind::ALL.map(|kind| (kind.name().to_owned(), sim.count(kind).into()));
            Value::Object(counts.into_iter().collect::<Map<_, _>>())
        }
        _ => return Err(Reply::message(404, "Not Found")),
    };
    Ok(Reply::ok(Bytes::from(value.to_string())))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    serde_json::from_slice(body).map_err(|error| Reply::message(422, &error.to_string()))
}

fn parse_kind(name: &str) -> Result<Kind, Reply> {
    name.parse().map_err(|error: shared::id::UnknownKind| Reply::message(404, &error.to_string()))
}

fn found<T>(answer: Option<T>) -> Result<T, Reply> {
    answer.ok_or_else(|| Reply::message(404, "there is no such object"))
}
