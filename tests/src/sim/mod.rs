//! A WorkOS to test against: the REST API, the Events API and signed webhooks of a small world that
//! tests change, with knobs for everything that goes wrong out there.
//!
//! In the order a change travels: `state` holds the world behind one lock, `store` keeps every
//! version of every object, `object` says what a kind is and one file for each kind says it for
//! that, `events` announces,
//! `webhooks` delivers. In the order a question travels: `server` accepts, `rest` decides what the
//! answer is (`lists` for pages), `query` and `paging` read what was asked, `faults`, `limiter` and `knobs` spoil it,
//! `answer` is what leaves. `control` does over HTTP what [`Sim`] does by calls, `requests` counts.

mod answer;
mod api_key;
mod connection;
mod control;
mod directory;
mod directory_group;
mod directory_group_membership;
mod directory_user;
mod events;
mod faults;
mod feature_flag;
mod group;
mod group_membership;
mod invitation;
mod knobs;
mod limiter;
mod lists;
mod object;
#[cfg(test)]
mod official;
mod organization;
mod organization_domain;
mod organization_membership;
mod organization_role;
mod paging;
mod permission;
mod query;
mod requests;
mod rest;
mod role;
mod server;
mod session;
mod state;
mod store;
#[cfg(test)]
mod stories;
mod ulid;
mod user;
mod webhooks;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::id::Kind;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use events::{Attempt, Delivery, DeliveryState, Event};
pub use faults::{Failure, Hold};
pub use knobs::{Knobs, RateLimit};
pub use requests::{Requests, Route};
pub use webhooks::sign;

use faults::{Gate, Script, Target};
use object::fields;
use state::{Manner, State, clock};
use store::NOW;
use webhooks::Endpoint;

/// How a simulator starts.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// The only key it accepts.
    pub api_key: String,
    /// What chance is made of.
    pub seed: u64,
    /// The knobs to begin with.
    pub knobs: Knobs,
    /// How many webhooks may be on their way at once. With 1, and no knob against it, they arrive in
    /// order.
    pub webhooks_at_once: usize,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_key: "sk_test_simulator".to_owned(),
            seed: 1,
            knobs: Knobs::default(),
            webhooks_at_once: 64,
        }
    }
}

/// The size of a company to make in one go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Company {
    /// How many users.
    pub users: usize,
    /// How many organizations.
    pub organizations: usize,
    /// Domains of each organization.
    pub domains_per_organization: usize,
    /// Organizations that each user is a member of.
    pub memberships_per_user: usize,
    /// Whether each of them is announced; otherwise they were always there.
    pub announce: bool,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// When it began.
    pub at: DateTime<Utc>,
    /// What a GET showed then; none once it was deleted.
    pub object: Option<Value>,
}

/// A running simulator. Clones are the same one.
#[derive(Clone)]
pub struct Sim(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    url: String,
    api_key: String,
    state: Mutex<State>,
    client: reqwest::Client,
    runtime: Handle,
    stop: CancellationToken,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Sim {
    /// Starts a simulator on the current tokio runtime.
    pub fn start(config: SimConfig) -> anyhow::Result<Self> {
        let runtime = Handle::try_current().context("the simulator runs on tokio")?;
        let listener = shared::listen::bind(config.address)
            .with_context(|| format!("failed to listen on {}", config.address))?;
        let address = listener.local_addr()?;
        // The client refuses to be built without a TLS provider; a second installation keeps the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("failed to build the client that posts webhooks")?;
        let (queue, jobs) = mpsc::unbounded_channel();
        let sim = Self(Arc::new(Inner {
            address,
            url: format!("http://{address}"),
            api_key: config.api_key,
            state: Mutex::new(State::new(config.knobs, config.seed, queue)),
            client,
            runtime,
            stop: CancellationToken::new(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        }));
        sim.spawn(server::serve(sim.clone(), listener));
        sim.spawn(webhooks::dispatch(sim.clone(), jobs, config.webhooks_at_once));
        Ok(sim)
    }

    /// What to set `WORKOS_API_BASE_URL` to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// What to set `WORKOS_API_KEY` to.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.0.api_key
    }

    /// Closes every connection and sends no more webhooks. The world can still be looked at.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Resolves once somebody called `stop`.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a test thread must not hide behind a poisoned lock in all others.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> &reqwest::Client {
        &self.0.client
    }

    /// Runs a task until it ends or the simulator stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.runtime.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn in_flight(&self) -> InFlight<'_> {
        let now = self.0.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most_in_flight.fetch_max(now, Ordering::Relaxed);
        InFlight(&self.0.in_flight)
    }
}

/// A request that is being answered.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Changing the world.
#[expect(clippy::must_use_candidate, reason = "they are called for what they change")]
impl Sim {
    /// Makes an object of realistic fields with the given ones on top, announces it, returns what it is asked for by:
    /// its id, or its slug.
    /// An `id` among the fields is kept.
    pub fn create(&self, kind: Kind, given: Value) -> String {
        self.state().create(kind, fields(given), Manner::Announced, clock())
    }

    /// Lays the patch over an object, moves `updated_at`, announces it. Returns the id of the event;
    /// none when there is no such object.
    pub fn update(&self, kind: Kind, id: &str, patch: Value) -> Option<String> {
        self.state().update(kind, id, fields(patch), Manner::Announced, clock()).event
    }

    /// Deletes an object with all that depends on it, announces it. Returns the id of its event; none
    /// when there is no such object.
    pub fn delete(&self, kind: Kind, id: &str) -> Option<String> {
        self.state().delete(kind, id, Manner::Announced, clock()).event
    }

    /// Makes an object that no event tells of.
    pub fn silently_create(&self, kind: Kind, given: Value) -> String {
        self.state().create(kind, fields(given), Manner::Silent, clock())
    }

    /// Changes an object without an event, and with or without moving `updated_at`. Says whether there
    /// is such an object.
    pub fn silently_update(&self, kind: Kind, id: &str, patch: Value, move_updated_at: bool) -> bool {
        let manner = if move_updated_at { Manner::Silent } else { Manner::Unnoticeable };
        self.state().update(kind, id, fields(patch), manner, clock()).found
    }

    /// Deletes an object with all that depends on it, without events. Says whether there was such an
    /// object.
    pub fn silently_delete(&self, kind: Kind, id: &str) -> bool {
        self.state().delete(kind, id, Manner::Silent, clock()).found
    }

    /// Makes an object of this kind, and what it cannot exist without: with or without events. Returns what it is asked
    /// for by.
    pub fn make(&self, kind: Kind, announce: bool) -> String {
        let mut given = serde_json::Map::new();
        for (field, parent) in object::of(kind).parents() {
            given.insert((*field).to_owned(), self.make(*parent, announce).into());
        }
        let manner = if announce { Manner::Announced } else { Manner::Silent };
        self.state().create(kind, given, manner, clock())
    }

    /// Takes a field away from an object, without an event. Says whether there is such an object.
    pub fn take_away(&self, kind: Kind, id: &str, field: &str) -> bool {
        self.state().take_away(kind, id, field, clock())
    }

    /// A user with this address, named after it.
    pub fn user(&self, email: &str) -> String {
        self.create(Kind::User, json!({ "email": email }))
    }

    /// An organization with this name.
    pub fn organization(&self, name: &str) -> String {
        self.create(Kind::Organization, json!({ "name": name }))
    }

    /// A verified domain of an organization.
    pub fn domain(&self, organization: &str, domain: &str) -> String {
        self.create(Kind::OrganizationDomain, json!({"organization_id": organization, "domain": domain}))
    }

    /// An active membership.
    pub fn membership(&self, user: &str, organization: &str) -> String {
        self.create(Kind::OrganizationMembership, json!({"user_id": user, "organization_id": organization}))
    }

    /// Stamps `last_sign_in_at`, as WorkOS does: without an event, and `updated_at` stays. Says whether
    /// there is such a user.
    pub fn sign_in(&self, user: &str) -> bool {
        let now = state::iso(clock());
        self.silently_update(Kind::User, user, json!({ "last_sign_in_at": now }), false)
    }

    /// Makes a whole company.
    pub fn seed(&self, company: &Company) {
        let manner = if company.announce { Manner::Announced } else { Manner::Silent };
        let make = |kind, given| self.state().create(kind, fields(given), manner, clock());
        let organizations: Vec<String> = (0..company.organizations)
            .map(|number| {
                let id = make(Kind::Organization, json!({"name": format!("Organization {number}")}));
                for domain in 0..company.domains_per_organization {
                    let domain = format!("d{domain}.organization{number}.example.com");
                    make(Kind::OrganizationDomain, json!({"organization_id": id, "domain": domain}));
                }
                id
            })
            .collect();
        for number in 0..company.users {
            let email = format!("user.number{number}@example.com");
            let user = make(Kind::User, json!({ "email": email }));
            let wanted = company.memberships_per_user.min(organizations.len());
            for step in 0..wanted {
                let organization = &organizations[(number + step) % organizations.len()];
                make(Kind::OrganizationMembership, json!({"user_id": user, "organization_id": organization}));
            }
        }
    }
}

/// Looking at the world as it truly is, whatever the knobs make of it.
impl Sim {
    /// What a true GET shows now.
    #[must_use]
    pub fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.state().store.view(NOW).represent(kind, id)
    }

    /// Every object of a kind, oldest first.
    #[must_use]
    pub fn all(&self, kind: Kind) -> Vec<Value> {
        let state = self.state();
        let view = state.store.view(NOW);
        state.store.order(kind).iter().filter_map(|id| view.represent(kind, id)).collect()
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        let state = self.state();
        let view = state.store.view(NOW);
        state.store.order(kind).iter().filter(|id| view.fields(kind, id).is_some()).count()
    }

    /// Every id of a kind that ever was, oldest first, deleted ones too.
    #[must_use]
    pub fn ever(&self, kind: Kind) -> Vec<String> {
        self.state().store.order(kind).to_vec()
    }

    /// Every version of an object, oldest first.
    #[must_use]
    pub fn versions(&self, kind: Kind, id: &str) -> Vec<Version> {
        let versions = self.state().store.versions(kind, id);
        versions.into_iter().map(|(at, object)| Version { at, object }).collect()
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let mut requests = self.state().requests.clone();
        requests.most_at_once = self.0.most_in_flight.load(Ordering::Relaxed);
        requests
    }

    /// How often this object was asked for by id.
    #[must_use]
    pub fn asked(&self, kind: Kind, id: &str) -> u64 {
        self.state().store.asked(kind, id)
    }

    /// How often this object was asked for by id and the answer was 200.
    #[must_use]
    pub fn answered(&self, kind: Kind, id: &str) -> u64 {
        self.state().store.answered(kind, id)
    }

    /// Forgets what was asked so far.
    pub fn reset_counters(&self) {
        let mut state = self.state();
        state.requests = Requests::default();
        state.store.reset_asked();
        self.0.most_in_flight.store(0, Ordering::Relaxed);
    }
}

/// Events and webhooks.
#[expect(clippy::must_use_candidate, reason = "most are called for what they send")]
impl Sim {
    /// Every event so far, with what became of its webhooks.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state().log.records().iter().map(|record| record.event.clone()).collect()
    }

    /// Every event of a type so far.
    #[must_use]
    pub fn told(&self, event_type: &str) -> Vec<Event> {
        let state = self.state();
        let events = state.log.records().iter().map(|record| &record.event);
        events.filter(|event| event.event_type == event_type).cloned().collect()
    }

    /// The last event about an object.
    #[must_use]
    pub fn last_event(&self, kind: Kind, id: &str) -> Option<Event> {
        let state = self.state();
        let about = |event: &Event| {
            event.object.as_ref().is_some_and(|object| object.kind == kind && object.id == id)
        };
        state.log.records().iter().rev().map(|record| &record.event).find(|event| about(event)).cloned()
    }

    /// Announces something of an object, with what an event of this type says of it. Returns the event's id; none when
    /// there is no such object.
    pub fn tell(&self, event_type: &str, kind: Kind, id: &str) -> Option<String> {
        self.state().tell(event_type, kind, id, clock())
    }

    /// Announces something of any type. Returns the event's id.
    pub fn emit(&self, event_type: &str, data: Value) -> String {
        self.state().announce(event_type, None, data, clock())
    }

    /// The exact bytes of an event's webhook.
    #[must_use]
    pub fn webhook_body(&self, event_id: &str) -> Option<bytes::Bytes> {
        let state = self.state();
        state.log.record(state.log.index(event_id)?).map(|record| record.wire.clone())
    }

    /// From now on the Events API shows this item in the place of an event. Says whether there is such an event.
    pub fn spoil(&self, event_id: &str, item: &Value) -> bool {
        let mut state = self.state();
        let index = state.log.index(event_id);
        let record = index.and_then(|index| state.log.record_mut(index));
        record.map(|record| record.spoil(item)).is_some()
    }

    /// Sends every event from now on to this URL as well. Returns the endpoint's id.
    pub fn add_endpoint(&self, url: &str, secret: &str) -> String {
        let mut guard = self.state();
        let state = &mut *guard;
        let id = state.ulids.next("we", &mut state.rng, clock());
        state.endpoints.push(Endpoint { id: id.clone(), url: url.to_owned(), secret: secret.to_owned() });
        id
    }

    /// Sends nothing more there; what is on its way is given up. Says whether there was such an
    /// endpoint.
    pub fn remove_endpoint(&self, id: &str) -> bool {
        let mut state = self.state();
        let before = state.endpoints.len();
        state.endpoints.retain(|endpoint| endpoint.id != id);
        state.endpoints.len() < before
    }

    /// Webhooks that are neither delivered, given up, lost nor held. 0 is quiet.
    #[must_use]
    pub fn pending_deliveries(&self) -> usize {
        self.state().pending
    }

    /// Sends an event to every endpoint once more, with retries. Says whether there is such an event.
    pub fn deliver_again(&self, event_id: &str) -> bool {
        let mut state = self.state();
        let index = state.log.index(event_id);
        if let Some(index) = index {
            state.send_again(index);
        }
        index.is_some()
    }

    /// Sends an event to every endpoint now and waits: one attempt each, no retries. The statuses in
    /// the order of the endpoints, 0 where no answer came.
    pub async fn post(&self, event_id: &str) -> anyhow::Result<Vec<u16>> {
        webhooks::post_by_hand(self, event_id).await
    }

    /// Sends off what was held while `Knobs::auto_deliver` was off, oldest first.
    pub fn release_held(&self) {
        self.state().release_held();
    }
}

/// What goes wrong.
impl Sim {
    /// The knobs as they are.
    #[must_use]
    pub fn knobs(&self) -> Knobs {
        self.state().knobs.clone()
    }

    /// Turns the knobs. What was decided already (a delay, a lost webhook) stays.
    pub fn set_knobs(&self, knobs: Knobs) {
        let mut state = self.state();
        state.knobs = knobs;
        state.limiter.reset();
    }

    /// Every list shows what is true now, until it is called with `false`: lists that are stale for as long as a test
    /// wants.
    pub fn stop_lists(&self, stop: bool) {
        let mut state = self.state();
        state.lists_as_of = stop.then(|| state.store.as_of(DateTime::<Utc>::MAX_UTC));
    }

    /// Every request fails like this, until it is called with none.
    pub fn outage(&self, failure: Option<Failure>) {
        self.state().outage = failure;
    }

    /// The next GET of this object is answered with what is true when it arrives, and only after the
    /// hold is released: a slow, old read.
    pub fn hold(&self, kind: Kind, id: &str) -> Hold {
        self.hold_target(Target::Object(kind, id.to_owned()))
    }

    /// The same for the next page of a list.
    pub fn hold_list(&self, kind: Kind) -> Hold {
        self.hold_target(Target::List(kind))
    }

    /// The same for the `page`th page of a list from now, counted from 1.
    pub fn hold_page(&self, kind: Kind, page: usize) -> Hold {
        self.script(&Target::List(kind), page.saturating_sub(1), || Script::Pass);
        self.hold_list(kind)
    }

    /// The same for the next page of the Events API.
    pub fn hold_events(&self) -> Hold {
        self.hold_target(Target::Events)
    }

    fn hold_target(&self, target: Target) -> Hold {
        let gate = Gate::default();
        let hold = gate.hold();
        self.state().scripts.push(target, Script::Hold(gate));
        hold
    }

    /// The next `times` GETs of this object fail.
    pub fn fail_next(&self, kind: Kind, id: &str, times: usize, failure: Failure) {
        self.script(&Target::Object(kind, id.to_owned()), times, || Script::Fail(failure));
    }

    /// The next `times` pages of this list fail.
    pub fn fail_next_list(&self, kind: Kind, times: usize, failure: Failure) {
        self.script(&Target::List(kind), times, || Script::Fail(failure));
    }

    /// The `page`th page of this list from now, counted from 1, fails, and the `times - 1` after it: a list that
    /// breaks off in the middle.
    pub fn fail_page(&self, kind: Kind, page: usize, times: usize, failure: Failure) {
        self.script(&Target::List(kind), page.saturating_sub(1), || Script::Pass);
        self.fail_next_list(kind, times, failure);
    }

    /// The next `times` pages of the Events API fail.
    pub fn fail_next_events(&self, times: usize, failure: Failure) {
        self.script(&Target::Events, times, || Script::Fail(failure));
    }

    /// The next `times` GETs of this object are answered as before its last change: with the previous
    /// version, 404 if it is new, 200 if it was deleted.
    pub fn stale_next(&self, kind: Kind, id: &str, times: usize) {
        self.script(&Target::Object(kind, id.to_owned()), times, || Script::Stale);
    }

    fn script(&self, target: &Target, times: usize, script: impl Fn() -> Script) {
        let mut state = self.state();
        for _ in 0..times {
            state.scripts.push(target.clone(), script());
        }
    }

    /// Forgets every hold and scripted answer that no request has met yet.
    pub fn clear_scripts(&self) {
        self.state().scripts.clear();
    }
}
