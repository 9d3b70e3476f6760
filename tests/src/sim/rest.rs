//! The REST API: one request in, one plan of an answer out, under one short lock.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use shared::id::Kind;

use super::answer::{Answer, Reply};
use super::faults::{Failure, Gate, Script, Target, chance};
use super::object;
use super::query::Query;
use super::requests::Route;
use super::state::{State, milliseconds};
use super::store::{NOW, Revision};

/// What of a request matters here.
pub(super) struct Asked<'a> {
    pub(super) is_get: bool,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) authorized: bool,
}

/// How a request will be answered. What the answer says is fixed.
pub(super) struct Plan {
    pub(super) wait: Duration,
    pub(super) gate: Option<Gate>,
    pub(super) answer: Answer,
}

impl State {
    /// Decides how a request is answered, and counts it.
    pub(super) fn plan(&mut self, asked: &Asked<'_>, now: DateTime<Utc>) -> Plan {
        let (route, id) = route(asked.path);
        let mut gate = None;
        let answer = self.answer(asked, route, id.as_deref(), &mut gate, now);
        self.requests.count(route, answer.status());
        if let (Route::Get(kind), Some(id)) = (route, &id) {
            self.store.count(kind, id, answer.status());
        }
        let (least, most) = self.knobs.latency_ms;
        let wait = if most == 0 { 0 } else { self.rng.u64(least..=most.max(least)) };
        Plan { wait: Duration::from_millis(wait), gate, answer }
    }

    fn answer(
        &mut self,
        asked: &Asked<'_>,
        route: Route,
        id: Option<&str>,
        gate: &mut Option<Gate>,
        now: DateTime<Utc>,
    ) -> Answer {
        if let Some(failure) = self.outage {
            return failure.answer(&self.knobs);
        }
        if !asked.authorized {
            return Failure::Status(401).answer(&self.knobs);
        }
        let directory =
            if self.knobs.rate_limits.is_empty() { None } else { self.directory_of(asked, route, id) };
        if let Err(seconds) =
            self.limiter.take(&self.knobs.rate_limits, asked.path, directory.as_deref(), now)
        {
            return Failure::TooMany(Some(seconds)).answer(&self.knobs);
        }
        // A scripted request is exactly as scripted; chance is for the others.
        let mut stale = false;
        match self.script(route, id) {
            Some(Script::Fail(failure)) => return failure.answer(&self.knobs),
            Some(Script::Stale) => stale = true,
            Some(Script::Pass) => {}
            Some(Script::Hold(hold)) => *gate = Some(hold),
            None => {
                if let Some(failure) = Failure::roll(&self.knobs, &mut self.rng) {
                    return failure.answer(&self.knobs);
                }
            }
        }
        if !asked.is_get {
            return Answer::Reply(Reply::message(404, "Not Found"));
        }
        let query = Query::parse(asked.query);
        let reply = match (route, id) {
            (Route::Get(kind), Some(id)) => self.get_one(kind, id, stale, now),
            (Route::List(kind), of) => self.list(kind, &query.of(of), now).map(Reply::ok),
            (Route::Events, _) => self.events_page(&query, now).map(Reply::ok),
            _ => Err(Reply::message(404, "Not Found")),
        };
        Answer::Reply(reply.unwrap_or_else(|refusal| refusal))
    }

    /// The directory that a request is about: it has a limit of its own.
    fn directory_of(&self, asked: &Asked<'_>, route: Route, id: Option<&str>) -> Option<String> {
        let query = Query::parse(asked.query);
        let of = |kind, id: &str| {
            let fields = self.store.view(NOW).fields(kind, id)?;
            object::text(fields, "directory_id").map(str::to_owned)
        };
        match (route, id) {
            (Route::Get(kind), Some(id)) => of(kind, id),
            (Route::List(_), _) => match (query.get("directory"), query.get("group")) {
                (Some(directory), _) => Some(directory.to_owned()),
                (None, Some(group)) => of(Kind::DirectoryGroup, group),
                (None, None) => None,
            },
            _ => None,
        }
    }

    fn script(&mut self, route: Route, id: Option<&str>) -> Option<Script> {
        if self.scripts.is_empty() {
            return None;
        }
        let target = match (route, id) {
            (Route::Get(kind), Some(id)) => Target::Object(kind, id.to_owned()),
            (Route::List(kind), _) => Target::List(kind),
            (Route::Events, _) => Target::Events,
            _ => return None,
        };
        self.scripts.next(&target)
    }

    fn get_one(&mut self, kind: Kind, id: &str, stale: bool, now: DateTime<Utc>) -> Result<Reply, Reply> {
        let as_of = if stale {
            self.store.before_last_change(kind, id).unwrap_or(NOW)
        } else {
            self.moment_of(kind, id, now)
        };
        let shown = self.show(kind, id, as_of).or_else(|| {
            let instead = object::of(kind).instead(self.store.view(as_of), id)?;
            Some(Bytes::from(instead.to_string()))
        });
        shown
            .map(Reply::ok)
            .ok_or_else(|| Reply::message(404, &format!("{} not found: '{id}'.", object::of(kind).title())))
    }

    /// As of when a GET of this object is answered.
    fn moment_of(&mut self, kind: Kind, id: &str, now: DateTime<Utc>) -> Revision {
        if self.knobs.stale_read > 0.0
            && let Some(changed_at) = self.store.changed_at(kind, id)
        {
            let since = (now - changed_at).num_milliseconds().max(0).unsigned_abs();
            if since < self.knobs.stale_window_ms && chance(self.knobs.stale_read, &mut self.rng) {
                // Some moment before the change, but within the window.
                let back = self.rng.u64(since + 1..=self.knobs.stale_window_ms);
                return self.store.as_of(now - milliseconds(back));
            }
        }
        self.store.lingering(kind, id, now).unwrap_or(NOW)
    }

    /// What a GET shows as of a moment.
    pub(super) fn show(&mut self, kind: Kind, id: &str, as_of: Revision) -> Option<Bytes> {
        if as_of == NOW {
            return self.store.bytes(kind, id);
        }
        self.store.view(as_of).represent(kind, id).map(|shown| Bytes::from(shown.to_string()))
    }
}

/// What a path asks for, and the id in it: of the object, or of the one whose list it is.
pub(super) fn route(path: &str) -> (Route, Option<String>) {
    if path == "/events" {
        return (Route::Events, None);
    }
    let segments: Vec<String> =
        path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
    for kind in Kind::ALL {
        let object = object::of(kind);
        for (place, path) in std::iter::once(&object.path()).chain(object.also_listed()).enumerate() {
            let Some((of, rest)) = under(path, &segments) else { continue };
            match rest {
                [] => return (Route::List(kind), of),
                [id] if !id.is_empty() && place == 0 => {
                    return (Route::Get(kind), Some(object.found_by(of.as_deref(), id)));
                }
                _ => {}
            }
        }
    }
    (Route::Unknown, None)
}

/// What the `{}` of a path stand for in a request, and what of the request is behind it.
fn under<'a>(path: &str, segments: &'a [String]) -> Option<(Option<String>, &'a [String])> {
    let template: Vec<&str> = path.split('/').collect();
    let (beginning, rest) = segments.split_at_checked(template.len())?;
    let pairs = || template.iter().zip(beginning);
    if !pairs().all(|(wanted, segment)| *wanted == "{}" || wanted == segment) {
        return None;
    }
    let of: Vec<&str> =
        pairs().filter(|(wanted, _)| **wanted == "{}").map(|(_, segment)| segment.as_str()).collect();
    Some(((!of.is_empty()).then(|| of.join("/")), rest))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::sim::knobs::Knobs;
    use crate::sim::state::{Manner, clock};

    fn ask(state: &mut State, target: &str, now: DateTime<Utc>) -> (u16, Value) {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let plan = state.plan(&Asked { is_get: true, path, query, authorized: true }, now);
        match plan.answer {
            Answer::Reply(reply) => {
                (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
            }
            _ => (0, Value::Null),
        }
    }

    fn make(state: &mut State, kind: Kind, fields: Value, now: DateTime<Utc>) -> String {
        state.create(kind, object::fields(fields), Manner::Announced, now)
    }

    fn state(knobs: Knobs) -> (State, DateTime<Utc>) {
        (State::new(knobs, 7, unbounded_channel().0), clock())
    }

    fn later(now: DateTime<Utc>, ms: u64) -> DateTime<Utc> {
        now + milliseconds(ms)
    }

    #[test]
    fn what_is_not_there_is_named_in_a_404() {
        let (mut state, now) = state(Knobs::default());
        let (status, body) = ask(&mut state, "/user_management/users/user_1", now);
        assert_eq!((status, body), (404, json!({"message": "User not found: 'user_1'."})));
        assert_eq!(ask(&mut state, "/organization_domains", now).0, 404);
        assert_eq!(ask(&mut state, "/nothing", now).0, 404);
        assert_eq!(state.requests.gets(Kind::User), 1);
        assert_eq!(state.requests.with_status(404), 3);
    }

    #[test]
    fn a_list_names_the_ids_to_go_on_with_and_null_at_its_ends() {
        let (mut state, now) = state(Knobs::default());
        let ids: Vec<String> = (0..25)
            .map(|n| make(&mut state, Kind::Organization, json!({"name": n.to_string()}), now))
            .collect();
        let (_, first) = ask(&mut state, "/organizations", now);
        assert_eq!(first["data"].as_array().unwrap().len(), 10);
        assert_eq!(first["data"][0]["id"], ids[24]);
        assert_eq!(first["list_metadata"], json!({"before": null, "after": ids[15]}));
        // The object of a cursor may be deleted between two pages.
        state.delete(Kind::Organization, &ids[15], Manner::Announced, now);
        let (_, second) = ask(&mut state, &format!("/organizations?limit=100&after={}", ids[15]), now);
        assert_eq!(second["data"].as_array().unwrap().len(), 15);
        assert_eq!(second["list_metadata"], json!({"before": ids[14], "after": null}));
        let (_, back) = ask(&mut state, &format!("/organizations?limit=2&before={}", ids[14]), now);
        assert_eq!(back["data"][0]["id"], ids[17]);
        assert_eq!(back["list_metadata"], json!({"before": ids[17], "after": ids[16]}));
        assert_eq!(ask(&mut state, "/organizations?limit=101", now).0, 422);
        assert_eq!(ask(&mut state, "/organizations?after=org_unknown", now).0, 400);
    }

    #[test]
    fn a_membership_list_wants_a_user_or_an_organization_and_shows_the_active_ones() {
        let (mut state, now) = state(Knobs::default());
        let user = make(&mut state, Kind::User, json!({"email": "ada@acme.com"}), now);
        let mut memberships = Vec::new();
        for status in ["active", "inactive", "pending"] {
            let organization = make(&mut state, Kind::Organization, json!({}), now);
            let fields = json!({"user_id": user, "organization_id": organization, "status": status});
            memberships.push(make(&mut state, Kind::OrganizationMembership, fields, now));
        }
        let path = "/user_management/organization_memberships";
        let (status, body) = ask(&mut state, path, now);
        assert_eq!((status, &body["code"]), (400, &json!("missing_user_id_or_organization_id")));
        let ids = |page: &Value| -> Vec<String> {
            let items = page["data"].as_array().unwrap();
            items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
        };
        let (_, active) = ask(&mut state, &format!("{path}?user_id={user}"), now);
        assert_eq!(ids(&active), [memberships[0].clone()]);
        let all = format!("{path}?user_id={user}&statuses=active,inactive,pending&order=asc&limit=2");
        let (_, page) = ask(&mut state, &all, now);
        assert_eq!(ids(&page), memberships[..2]);
        let (_, page) = ask(&mut state, &format!("{all}&after={}", memberships[1]), now);
        assert_eq!(ids(&page), memberships[2..]);
    }

    #[test]
    fn lists_filter_as_documented() {
        let (mut state, now) = state(Knobs::default());
        let ada = make(&mut state, Kind::User, json!({"email": "ada@acme.com"}), now);
        make(&mut state, Kind::User, json!({"email": "bob@acme.com"}), now);
        let acme = make(&mut state, Kind::Organization, json!({"name": "Acme Inc"}), now);
        make(&mut state, Kind::Organization, json!({"name": "Other"}), now);
        make(
            &mut state,
            Kind::OrganizationDomain,
            json!({"organization_id": acme, "domain": "acme.com"}),
            now,
        );
        make(&mut state, Kind::OrganizationMembership, json!({"user_id": ada, "organization_id": acme}), now);
        for target in [
            "/user_management/users?email=ADA%40acme.com".to_owned(),
            format!("/user_management/users?organization_id={acme}"),
        ] {
            let (_, page) = ask(&mut state, &target, now);
            assert_eq!(page["data"].as_array().unwrap().len(), 1, "{target}");
            assert_eq!(page["data"][0]["id"], ada);
        }
        for target in ["/organizations?search=acme", "/organizations?domains=x.com,acme.com"] {
            let (_, page) = ask(&mut state, target, now);
            assert_eq!(page["data"].as_array().unwrap().len(), 1, "{target}");
            assert_eq!(page["data"][0]["domains"][0]["domain"], "acme.com");
        }
    }

    #[test]
    fn a_stale_read_is_what_was_true_before_and_ends_with_the_window() {
        let knobs = Knobs { stale_read: 1.0, stale_window_ms: 100, ..Knobs::default() };
        let (mut state, began) = state(knobs);
        let user = make(&mut state, Kind::User, json!({"first_name": "Ada"}), began);
        let target = format!("/user_management/users/{user}");
        assert_eq!(ask(&mut state, &target, later(began, 50)).0, 404, "just created");
        assert_eq!(ask(&mut state, &target, later(began, 100)).0, 200, "the window is over");
        let patch = object::fields(json!({"first_name": "Augusta"}));
        state.update(Kind::User, &user, patch, Manner::Announced, later(began, 1_000));
        let (_, early) = ask(&mut state, &target, later(began, 1_050));
        assert_eq!(early["first_name"], "Ada");
        let (_, fresh) = ask(&mut state, &target, later(began, 1_100));
        assert_eq!(fresh["first_name"], "Augusta");
        state.delete(Kind::User, &user, Manner::Announced, later(began, 2_000));
        assert_eq!(ask(&mut state, &target, later(began, 2_050)).0, 200, "just deleted");
        assert_eq!(ask(&mut state, &target, later(began, 2_100)).0, 404);
    }

    #[test]
    fn an_asynchronous_deletion_is_announced_before_it_is_seen() {
        let knobs = Knobs { async_delete: 1.0, async_delete_ms: 100, ..Knobs::default() };
        let (mut state, began) = state(knobs);
        let user = make(&mut state, Kind::User, json!({}), began);
        let organization = make(&mut state, Kind::Organization, json!({}), began);
        let fields = json!({"user_id": user, "organization_id": organization});
        let membership = make(&mut state, Kind::OrganizationMembership, fields, began);
        state.delete(Kind::User, &user, Manner::Announced, began);
        for target in [
            format!("/user_management/users/{user}"),
            format!("/user_management/organization_memberships/{membership}"),
        ] {
            assert_eq!(ask(&mut state, &target, later(began, 99)).0, 200);
            assert_eq!(ask(&mut state, &target, later(began, 100)).0, 404);
        }
    }

    #[test]
    fn scripts_come_first_in_order_and_once() {
        let (mut state, now) = state(Knobs::default());
        let user = make(&mut state, Kind::User, json!({}), now);
        let target = Target::Object(Kind::User, user.clone());
        state.scripts.push(target.clone(), Script::Fail(Failure::Status(500)));
        state.scripts.push(target.clone(), Script::Fail(Failure::Ratelimited));
        state.scripts.push(target, Script::Stale);
        let path = format!("/user_management/users/{user}");
        assert_eq!(ask(&mut state, &path, now).0, 500);
        assert_eq!(ask(&mut state, &path, now), (429, json!("Ratelimited")));
        assert_eq!(ask(&mut state, &path, now).0, 404);
        assert_eq!(ask(&mut state, &path, now).0, 200);
        assert_eq!(state.store.asked(Kind::User, &user), 4);
        assert_eq!(state.store.answered(Kind::User, &user), 1);
    }

    #[test]
    fn an_enforced_limit_answers_429_with_the_time_to_wait() {
        let (mut state, now) = state(Knobs { rate_limits: Knobs::published_limits(), ..Knobs::default() });
        let statuses: Vec<u16> =
            (0..1_001).map(|_| ask(&mut state, "/user_management/users?limit=1", now).0).collect();
        assert!(statuses[..1_000].iter().all(|status| *status == 200));
        assert_eq!(statuses[1_000], 429);
    }
}
