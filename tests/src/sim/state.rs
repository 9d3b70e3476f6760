//! The state behind the one lock, and how it changes.

use std::collections::HashSet;

use chrono::{DateTime, Duration, SecondsFormat, SubsecRound as _, Utc};
use serde_json::Value;
use shared::id::{Kind, ObjectRef};
use tokio::sync::mpsc::UnboundedSender;

use super::events::Log;
use super::faults::{Failure, Scripts, chance};
use super::knobs::Knobs;
use super::limiter::Limiter;
use super::object::{self, Fields, text};
use super::requests::Requests;
use super::store::{NOW, Revision, Store};
use super::ulid::Ulids;
use super::webhooks::{Endpoint, Job};

/// Everything that changes while the simulator runs. No await happens while it is locked.
pub(super) struct State {
    pub(super) knobs: Knobs,
    pub(super) rng: fastrand::Rng,
    pub(super) ulids: Ulids,
    pub(super) store: Store,
    pub(super) log: Log,
    pub(super) endpoints: Vec<Endpoint>,
    /// Deliveries that are neither done nor held.
    pub(super) pending: usize,
    /// Where deliveries go to leave. No longer than events times endpoints.
    pub(super) queue: UnboundedSender<Job>,
    pub(super) outage: Option<Failure>,
    pub(super) scripts: Scripts,
    pub(super) limiter: Limiter,
    pub(super) requests: Requests,
    /// What lists show while they stand still.
    pub(super) lists_as_of: Option<Revision>,
}

/// Whether a change is announced, and whether it moves `updated_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// With an event; `updated_at` moves.
    Announced,
    /// Without an event; `updated_at` moves.
    Silent,
    /// Without an event, and `updated_at` stays.
    Unnoticeable,
}

/// What became of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Whether there was such an object.
    pub(super) found: bool,
    /// The event that announces it.
    pub(super) event: Option<String>,
}

impl State {
    pub(super) fn new(knobs: Knobs, seed: u64, queue: UnboundedSender<Job>) -> Self {
        Self {
            knobs,
            rng: fastrand::Rng::with_seed(seed),
            ulids: Ulids::default(),
            store: Store::default(),
            log: Log::default(),
            endpoints: Vec::new(),
            pending: 0,
            queue,
            outage: None,
            scripts: Scripts::default(),
            limiter: Limiter::default(),
            requests: Requests::default(),
            lists_as_of: None,
        }
    }

    /// Whether this object is there, as far as the truth goes.
    pub(super) fn is_alive(&self, kind: Kind, id: &str) -> bool {
        self.store.view(NOW).fields(kind, id).is_some()
    }

    /// Makes an object. An id among the given fields is kept. Returns what it is asked for by.
    pub(super) fn create(&mut self, kind: Kind, given: Fields, manner: Manner, now: DateTime<Utc>) -> String {
        let object = object::of(kind);
        let now = self.store.moment(now);
        let id = match text(&given, "id") {
            Some(id) => id.to_owned(),
            None => self.ulids.next(object.prefix(), &mut self.rng, now),
        };
        let mut fields = object.defaults(&id, &given);
        fields.insert("object".to_owned(), object.name().into());
        fields.insert("id".to_owned(), id.as_str().into());
        fields.insert("created_at".to_owned(), iso(now).into());
        fields.insert("updated_at".to_owned(), iso(now).into());
        fields.extend(given);
        let event_type = object.create_event(&fields);
        let id = object.key(&id, &fields);
        self.store.write(kind, &id, Some(fields), now);
        if manner == Manner::Announced
            && let Some(event_type) = event_type
        {
            let data = self.payload(&event_type, kind, &id);
            self.announce(&event_type, Some(ObjectRef::new(kind, &*id)), data, now);
        }
        id
    }

    /// Lays the patch over an object's fields.
    pub(super) fn update(
        &mut self,
        kind: Kind,
        id: &str,
        patch: Fields,
        manner: Manner,
        now: DateTime<Utc>,
    ) -> Changed {
        let Some(before) = self.store.view(NOW).fields(kind, id).cloned() else { return Changed::default() };
        let mut after = before.clone();
        let says_when = patch.contains_key("updated_at");
        after.extend(patch);
        if manner != Manner::Unnoticeable && !says_when {
            // Two changes within one millisecond still differ.
            let next = text(&before, "updated_at")
                .and_then(shared::timestamp::parse)
                .map_or(now, |last| now.max(last + Duration::milliseconds(1)));
            after.insert("updated_at".to_owned(), iso(next).into());
        }
        let event_type = object::of(kind).update_event(&before, &after);
        self.store.write(kind, id, Some(after), now);
        let (Manner::Announced, Some(event_type)) = (manner, event_type) else {
            return Changed { found: true, event: None };
        };
        let data = self.payload(&event_type, kind, id);
        let event = self.announce(&event_type, Some(ObjectRef::new(kind, id)), data, now);
        Changed { found: true, event: Some(event) }
    }

    /// Takes a field away from an object.
    pub(super) fn take_away(&mut self, kind: Kind, id: &str, field: &str, now: DateTime<Utc>) -> bool {
        let Some(mut fields) = self.store.view(NOW).fields(kind, id).cloned() else { return false };
        fields.remove(field);
        self.store.write(kind, id, Some(fields), now);
        true
    }

    /// Deletes an object and what cannot be without it, dependants first.
    pub(super) fn delete(&mut self, kind: Kind, id: &str, manner: Manner, now: DateTime<Utc>) -> Changed {
        if !self.is_alive(kind, id) {
            return Changed::default();
        }
        let lingers_until = chance(self.knobs.async_delete, &mut self.rng)
            .then(|| now + milliseconds(self.knobs.async_delete_ms));
        // It goes after its last change, so that it can be told what came first.
        let changed = self.store.view(NOW).fields(kind, id).and_then(|fields| text(fields, "updated_at"));
        let now = changed
            .and_then(shared::timestamp::parse)
            .map_or(now, |changed| now.max(changed + Duration::milliseconds(1)));
        let mut doomed = self.dependants(id);
        doomed.push((kind, id.to_owned()));
        // What the events say is what was there before any of it went.
        let payloads: Vec<Value> = doomed
            .iter()
            .map(|(kind, id)| self.payload(&object::of(*kind).delete_event(), *kind, id))
            .collect();
        for (kind, id) in &doomed {
            self.store.write(*kind, id, None, now);
            if let Some(until) = lingers_until {
                self.store.linger(*kind, id, until);
            }
        }
        let mut event = None;
        let tells_of_all = self.knobs.cascade_events && !object::of(kind).falls_alone();
        for ((doomed_kind, doomed_id), data) in doomed.into_iter().zip(payloads) {
            let itself = doomed_kind == kind && doomed_id == id;
            let event_type = object::of(doomed_kind).delete_event();
            // What WorkOS has no event for goes in silence.
            let has_event = shared::catalogue::find(&event_type).is_some();
            if manner == Manner::Announced && has_event && (itself || tells_of_all) {
                let about = Some(ObjectRef::new(doomed_kind, doomed_id));
                event = Some(self.announce(&event_type, about, data, now));
            }
        }
        Changed { found: true, event }
    }

    /// Everything alive that points to this object, deepest first.
    fn dependants(&self, id: &str) -> Vec<(Kind, String)> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        self.gather_dependants(id, &mut all, &mut seen);
        all
    }

    fn gather_dependants(&self, id: &str, all: &mut Vec<(Kind, String)>, seen: &mut HashSet<(Kind, String)>) {
        for child in self.store.living_children(id) {
            if seen.insert(child.clone()) {
                self.gather_dependants(&child.1, all, seen);
                all.push(child);
            }
        }
    }

    /// Announces something of an object that is there.
    pub(super) fn tell(
        &mut self,
        event_type: &str,
        kind: Kind,
        id: &str,
        now: DateTime<Utc>,
    ) -> Option<String> {
        if !self.is_alive(kind, id) {
            return None;
        }
        let data = self.payload(event_type, kind, id);
        Some(self.announce(event_type, Some(ObjectRef::new(kind, id)), data, now))
    }

    /// What an event of this type says of an object that is there.
    fn payload(&self, event_type: &str, kind: Kind, id: &str) -> Value {
        let view = self.store.view(NOW);
        view.fields(kind, id)
            .map_or(Value::Null, |fields| Value::Object(object::of(kind).payload(event_type, view, fields)))
    }
}

/// The current time to the millisecond: what we keep is what we tell.
pub(super) fn clock() -> DateTime<Utc> {
    shared::clock::now().trunc_subsecs(3)
}

/// A time as WorkOS writes it.
pub(super) fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// So many milliseconds.
pub(super) fn milliseconds(count: u64) -> Duration {
    Duration::milliseconds(i64::try_from(count).unwrap_or(i64::MAX / 1_000_000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn state() -> State {
        State::new(Knobs::default(), 1, unbounded_channel().0)
    }

    fn types(state: &State) -> Vec<&str> {
        state.log.records().iter().map(|record| record.event.event_type.as_str()).collect()
    }

    /// A user in an organization with a domain, made silently.
    fn acme(state: &mut State) -> (String, String, String) {
        let now = clock();
        let mut make = |kind, fields| state.create(kind, object::fields(fields), Manner::Silent, now);
        let user = make(Kind::User, json!({"email": "ada@acme.com"}));
        let organization = make(Kind::Organization, json!({"name": "Acme"}));
        make(Kind::OrganizationDomain, json!({"organization_id": organization, "domain": "acme.com"}));
        let membership =
            make(Kind::OrganizationMembership, json!({"organization_id": organization, "user_id": user}));
        (user, organization, membership)
    }

    #[test]
    fn updated_at_moves_with_every_change_however_fast() {
        let mut state = state();
        let (user, ..) = acme(&mut state);
        let now = clock();
        let mut last = String::new();
        for count in 0..5 {
            let patch = object::fields(json!({"metadata": {"count": count.to_string()}}));
            state.update(Kind::User, &user, patch, Manner::Announced, now);
            let shown = state.store.view(NOW).represent(Kind::User, &user).unwrap();
            let updated_at = shown["updated_at"].as_str().unwrap().to_owned();
            assert!(updated_at > last);
            last = updated_at;
        }
    }

    #[test]
    fn an_organization_takes_its_domains_and_memberships_with_it() {
        let mut state = state();
        let (user, organization, membership) = acme(&mut state);
        state.delete(Kind::Organization, &organization, Manner::Announced, clock());
        assert_eq!(
            types(&state),
            ["organization_domain.deleted", "organization_membership.deleted", "organization.deleted"]
        );
        assert_eq!(state.log.records()[2].event.data["domains"][0]["domain"], "acme.com");
        assert!(state.is_alive(Kind::User, &user));
        assert!(!state.is_alive(Kind::OrganizationMembership, &membership));
    }

    #[test]
    fn without_cascade_events_dependants_go_in_silence() {
        let mut state = state();
        let (user, _, membership) = acme(&mut state);
        state.knobs.cascade_events = false;
        state.delete(Kind::User, &user, Manner::Announced, clock());
        assert_eq!(types(&state), ["user.deleted"]);
        assert!(!state.is_alive(Kind::OrganizationMembership, &membership));
    }

    #[test]
    fn a_membership_shows_its_user_as_it_is_now_and_its_events_do_not() {
        let mut state = state();
        let (user, _, membership) = acme(&mut state);
        let now = clock();
        let before = state.store.bytes(Kind::OrganizationMembership, &membership).unwrap();
        let patch = object::fields(json!({"first_name": "Augusta"}));
        state.update(Kind::User, &user, patch, Manner::Announced, now);
        let after = state.store.bytes(Kind::OrganizationMembership, &membership).unwrap();
        assert_ne!(before, after);
        let shown: Value = serde_json::from_slice(&after).unwrap();
        assert_eq!(shown["user"]["first_name"], "Augusta");
        assert_eq!(shown["organization_name"], "Acme");
        assert_eq!(shown["roles"], json!([{"slug": "member"}]));

        let patch = object::fields(json!({"status": "inactive"}));
        state.update(Kind::OrganizationMembership, &membership, patch, Manner::Announced, now);
        let data = &state.log.records().last().unwrap().event.data;
        assert_eq!(data["status"], "inactive");
        assert!(data.get("user").is_none() && data.get("organization_name").is_none());
    }

    #[test]
    fn a_domain_that_becomes_verified_is_announced_as_such() {
        let mut state = state();
        let now = clock();
        let given = object::fields(json!({"state": "pending", "organization_id": "org_1"}));
        let domain = state.create(Kind::OrganizationDomain, given, Manner::Silent, now);
        for next in ["verified", "failed"] {
            let patch = object::fields(json!({"state": next}));
            state.update(Kind::OrganizationDomain, &domain, patch, Manner::Announced, now);
        }
        assert_eq!(
            types(&state),
            ["organization_domain.verified", "organization_domain.verification_failed"]
        );
        assert_eq!(state.log.records()[1].event.data["organization_domain"]["id"], domain);
    }

    #[test]
    fn every_version_of_an_object_can_be_looked_up() {
        let mut state = state();
        let (_, organization, _) = acme(&mut state);
        let now = clock();
        let patch = object::fields(json!({"name": "Acme Inc"}));
        state.update(Kind::Organization, &organization, patch, Manner::Announced, now);
        state.delete(Kind::Organization, &organization, Manner::Announced, now);
        let names: Vec<Option<String>> = state
            .store
            .versions(Kind::Organization, &organization)
            .into_iter()
            .map(|(_, shown)| shown.map(|shown| shown["name"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(names, [Some("Acme".to_owned()), Some("Acme Inc".to_owned()), None]);
    }
}
