//! Stories over HTTP: the simulator as its users meet it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shared::id::Kind;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

/// A webhook as it arrived.
struct Received {
    signature: String,
    body: Bytes,
}

impl Received {
    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Answers the first webhooks with these statuses and all further ones with 200.
async fn receiver(statuses: &'static [u16]) -> (String, UnboundedReceiver<Received>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
    let (sender, receiver) = unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (sender, count) = (sender.clone(), Arc::clone(&count));
            let service = service_fn(move |request: Request<Incoming>| {
                let (sender, count) = (sender.clone(), Arc::clone(&count));
                async move {
                    let signature = request.headers()["workos-signature"].to_str().unwrap().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = sender.send(Received { signature, body });
                    let status = statuses.get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(200);
                    let response = Response::builder().status(status).body(Full::new(Bytes::new())).unwrap();
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (url, receiver)
}

fn start(knobs: Knobs) -> Sim {
    Sim::start(SimConfig { knobs, ..SimConfig::default() }).unwrap()
}

async fn get(sim: &Sim, path: &str) -> reqwest::Result<(u16, Value)> {
    let response = sim.client().get(format!("{}{path}", sim.url())).bearer_auth(sim.api_key()).send().await?;
    let status = response.status().as_u16();
    let body = response.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

async fn quiet(sim: &Sim) {
    while sim.pending_deliveries() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_get_over_http_is_the_true_state_and_wants_the_key() {
    let sim = start(Knobs::default());
    let user = sim.user("ada.lovelace@acme.com");
    let path = format!("/user_management/users/{user}");
    let (status, body) = get(&sim, &path).await.unwrap();
    assert_eq!((status, Some(body)), (200, sim.get(Kind::User, &user)));
    let refused =
        sim.client().get(format!("{}{path}", sim.url())).bearer_auth("sk_wrong").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(sim.requests().gets(Kind::User), 2);
    assert_eq!(sim.requests().with_status(401), 1);
    sim.sign_in(&user);
    let (_, after) = get(&sim, &path).await.unwrap();
    assert!(after["last_sign_in_at"].is_string());
    assert_eq!(after["updated_at"], after["created_at"]);
    assert_eq!(sim.events().len(), 1);
}

#[tokio::test]
async fn a_webhook_is_sent_again_with_a_fresh_signature_until_it_is_answered_with_2xx() {
    let sim = start(Knobs { retry_base_ms: 5, ..Knobs::default() });
    let (url, mut received) = receiver(&[500, 302]).await;
    sim.add_endpoint(&url, "whsec_1");
    let user = sim.user("ada@acme.com");
    quiet(&sim).await;
    let event = sim.last_event(Kind::User, &user).unwrap();
    let statuses: Vec<Option<u16>> = event.deliveries[0].attempts.iter().map(|a| a.status).collect();
    assert_eq!(statuses, [Some(500), Some(302), Some(200)]);
    assert_eq!(event.deliveries[0].state, DeliveryState::Delivered);
    let mut times = Vec::new();
    for _ in 0..3 {
        let webhook = received.recv().await.unwrap();
        let time: i64 =
            webhook.signature.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
        assert_eq!(webhook.signature, sign("whsec_1", time, &webhook.body).unwrap());
        assert_eq!(webhook.event()["id"], event.id);
        assert_eq!(webhook.event()["object"], "event");
        times.push(time);
    }
    assert!(times[0] < times[1] && times[1] < times[2], "{times:?}");
}

#[tokio::test]
async fn a_webhook_is_given_up_after_the_last_retry() {
    let sim = start(Knobs { retries: 2, retry_base_ms: 1, envelope_object: false, ..Knobs::default() });
    let (url, mut received) = receiver(&[500; 10]).await;
    sim.add_endpoint(&url, "whsec_1");
    let user = sim.user("ada@acme.com");
    quiet(&sim).await;
    let delivery = &sim.last_event(Kind::User, &user).unwrap().deliveries[0];
    assert_eq!((delivery.state, delivery.attempts.len()), (DeliveryState::GivenUp, 3));
    assert!(received.recv().await.unwrap().event().get("object").is_none());
}

#[tokio::test]
async fn what_is_on_its_way_to_a_removed_endpoint_is_given_up() {
    let sim = start(Knobs { retry_base_ms: 20, ..Knobs::default() });
    let (url, mut received) = receiver(&[500; 10]).await;
    let endpoint = sim.add_endpoint(&url, "whsec_1");
    let user = sim.user("ada@acme.com");
    assert!(received.recv().await.is_some());
    assert!(sim.remove_endpoint(&endpoint));
    quiet(&sim).await;
    let delivery = &sim.last_event(Kind::User, &user).unwrap().deliveries[0];
    assert_eq!((delivery.state, delivery.attempts.len()), (DeliveryState::GivenUp, 1));
}

#[tokio::test]
async fn one_at_a_time_webhooks_arrive_in_the_order_of_their_events() {
    let sim = Sim::start(SimConfig { webhooks_at_once: 1, ..SimConfig::default() }).unwrap();
    let (url, mut received) = receiver(&[]).await;
    sim.add_endpoint(&url, "whsec_1");
    sim.seed(&Company { users: 50, announce: true, ..Company::default() });
    for event in sim.events() {
        assert_eq!(received.recv().await.unwrap().event()["id"], event.id);
    }
}

#[tokio::test]
async fn lost_duplicate_and_late_webhooks_are_accounted_for() {
    let knobs = Knobs { lost_webhook: 0.3, duplicate: 0.3, reorder: 0.5, reorder_ms: 20, ..Knobs::default() };
    let sim = start(knobs);
    let (url, mut received) = receiver(&[]).await;
    sim.add_endpoint(&url, "whsec_1");
    sim.seed(&Company { users: 100, announce: true, ..Company::default() });
    quiet(&sim).await;
    let deliveries: Vec<Delivery> = sim.events().into_iter().flat_map(|event| event.deliveries).collect();
    let count = |state| deliveries.iter().filter(|delivery| delivery.state == state).count();
    assert!(count(DeliveryState::Lost) > 10);
    assert!(deliveries.len() > 110);
    let mut order = Vec::new();
    for _ in 0..count(DeliveryState::Delivered) {
        order.push(received.recv().await.unwrap().event()["id"].as_str().unwrap().to_owned());
    }
    assert!(!order.is_sorted());
}

#[tokio::test]
async fn a_held_webhook_leaves_when_it_is_told_to() {
    let sim = start(Knobs { auto_deliver: false, ..Knobs::default() });
    let (url, mut received) = receiver(&[503]).await;
    sim.add_endpoint(&url, "whsec_1");
    let user = sim.user("ada@acme.com");
    let created = sim.last_event(Kind::User, &user).unwrap().id;
    let updated = sim.update(Kind::User, &user, json!({"first_name": "Augusta"})).unwrap();
    assert_eq!(sim.pending_deliveries(), 0);
    assert_eq!(sim.post(&updated).await.unwrap(), [503]);
    assert_eq!(sim.post(&updated).await.unwrap(), [200]);
    assert_eq!(received.recv().await.unwrap().event()["event"], "user.updated");
    assert_eq!(received.recv().await.unwrap().event()["event"], "user.updated");
    sim.release_held();
    quiet(&sim).await;
    assert_eq!(received.recv().await.unwrap().event()["id"], created);
    assert!(sim.deliver_again(&created));
    assert_eq!(received.recv().await.unwrap().event()["id"], created);
}

#[tokio::test]
async fn a_held_get_tells_late_what_was_true_early() {
    let sim = start(Knobs::default());
    let user = sim.create(Kind::User, json!({"first_name": "Ada"}));
    let hold = sim.hold(Kind::User, &user);
    let path = format!("/user_management/users/{user}");
    let slow = tokio::spawn({
        let (sim, path) = (sim.clone(), path.clone());
        async move { get(&sim, &path).await.unwrap() }
    });
    hold.reached().await;
    sim.update(Kind::User, &user, json!({"first_name": "Augusta"}));
    assert_eq!(get(&sim, &path).await.unwrap().1["first_name"], "Augusta");
    assert!(!slow.is_finished());
    hold.release();
    assert_eq!(slow.await.unwrap().1["first_name"], "Ada");
}

#[tokio::test]
async fn connections_break_and_answers_stay_away_on_command() {
    let sim = start(Knobs { timeout_ms: 20, ..Knobs::default() });
    let user = sim.user("ada@acme.com");
    let path = format!("/user_management/users/{user}");
    for failure in [Failure::Reset, Failure::Truncated, Failure::Timeout] {
        sim.outage(Some(failure));
        assert!(get(&sim, &path).await.is_err(), "{failure:?}");
    }
    assert!(sim.requests().with_status(0) >= 3);
    sim.outage(Some(Failure::TooMany(Some(7))));
    let refused =
        sim.client().get(format!("{}{path}", sim.url())).bearer_auth(sim.api_key()).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    sim.outage(None);
    assert_eq!(get(&sim, &path).await.unwrap().0, 200);
}

#[tokio::test]
async fn the_control_api_changes_the_world() {
    let sim = start(Knobs::default());
    let call = async |method: &str, path: &str, body: Value| {
        let method = method.parse().unwrap();
        let request = sim.client().request(method, format!("{}/_sim/{path}", sim.url())).json(&body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice::<Value>(&response.bytes().await.unwrap()).unwrap())
    };
    let (_, made) = call("POST", "objects/organization", json!({"name": "Acme"})).await;
    let id = made["id"].as_str().unwrap();
    let (_, patched) = call("PATCH", &format!("objects/organization/{id}"), json!({"name": "New"})).await;
    assert_eq!(patched["name"], "New");
    let company = json!({"users": 3, "organizations": 2, "memberships_per_user": 1});
    let (_, counts) = call("POST", "seed", company).await;
    assert_eq!(
        ["user", "organization", "organization_membership", "organization_domain"].map(|kind| &counts[kind]),
        [3, 3, 3, 0]
    );
    let (_, state) = call("GET", "state", Value::Null).await;
    assert_eq!(state["organization"].as_array().unwrap().len(), 3);
    let (_, knobs) = call("PUT", "knobs", json!({"stale_read": 0.5})).await;
    assert_eq!(knobs["stale_read"], 0.5);
    assert_eq!(call("PUT", "knobs", json!({"no_such_knob": 1})).await.0, 422);
    assert_eq!(call("DELETE", &format!("objects/organization/{id}"), Value::Null).await.0, 200);
    assert_eq!(call("DELETE", &format!("objects/organization/{id}"), Value::Null).await.0, 404);
    assert_eq!(call("PUT", "outage", json!("reset")).await.0, 200);
    assert!(get(&sim, "/organizations").await.is_err());
}

#[tokio::test]
async fn stopping_closes_every_connection() {
    let sim = start(Knobs::default());
    assert_eq!(get(&sim, "/organizations").await.unwrap().0, 200);
    sim.stop();
    let closed = async {
        while get(&sim, "/organizations").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("nobody answers any more");
}
