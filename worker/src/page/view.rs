//! How it looks: HTML that works without scripts. `maud` escapes everything that is put into it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use maud::{DOCTYPE, Markup, html};
use shared::clock;
use shared::id::Kind;

use super::door::Visitor;
use super::form::{address, fields_of};
use super::{DEFAULT_RATE, PATH, RECENT_SHOWN, WORDS_MOST};
use crate::dead_letter::act::Action;
use crate::dead_letter::list::by_reason;
use crate::dead_letter::{DeadLetter, Entry, Filter};
use crate::failure::Failure;
use crate::standing::{Open, Recent, Run, Tail, Waiting};

/// What the first page shows; what is absent could not be told.
pub(super) struct Overview<'a> {
    pub(super) env: &'a str,
    pub(super) trouble: &'a str,
    pub(super) notes: &'a str,
    pub(super) breaker_open: bool,
    pub(super) unwell: Option<&'a str>,
    pub(super) waiting: Option<Waiting>,
    pub(super) depth: Option<u64>,
    pub(super) dead: Option<&'a [DeadLetter]>,
    pub(super) open: Option<Open>,
    pub(super) tail: Result<Option<Tail>, Untold>,
    pub(super) recent: Option<Vec<Recent>>,
    pub(super) runs: Option<Vec<Run>>,
    pub(super) under_way: Option<i64>,
    pub(super) broke_off: Option<(i64, String)>,
}

/// It could not be told.
pub(super) struct Untold;

/// Some dead letters.
pub(super) struct List<'a> {
    pub(super) env: &'a str,
    pub(super) filter: &'a Filter,
    /// All that the filter means.
    pub(super) meant: &'a [DeadLetter],
    /// How many of them are on earlier pages.
    pub(super) begins: usize,
    pub(super) shown: &'a [&'a DeadLetter],
    /// What was just ordered.
    pub(super) run: Option<&'a Run>,
    pub(super) under_way: Option<i64>,
}

/// What is to be confirmed.
pub(super) struct Confirm<'a> {
    pub(super) action: Action,
    pub(super) filter: &'a Filter,
    pub(super) meant: &'a [DeadLetter],
    /// Why it is asked again.
    pub(super) said: Option<&'a str>,
}

pub(super) fn sign_in(tried: bool) -> Markup {
    let inside = html! {
        h1 { "Sign in" }
        @if tried {
            p.alert role="alert" { "That is not the token." }
        }
        form.panel method="post" action=(address("/sign-in", &[])) {
            label for="token" { "Token of this page" }
            input #token name="token" type="password" autocomplete="current-password" required autofocus;
            p.hint { "The setting SYNC_PAGE_TOKEN of the worker." }
            button type="submit" { "Sign in" }
        }
    };
    frame("Sign in", None, &inside)
}

pub(super) fn refusal(status: StatusCode, text: &str) -> Markup {
    let title = status.canonical_reason().unwrap_or("That did not work");
    let inside = html! {
        h1 { (title) }
        p.alert role="alert" { (text) }
        p { a href=(PATH) { "Back to the first page" } }
    };
    frame(title, None, &inside)
}

pub(super) fn overview(visitor: &Visitor, facts: &Overview<'_>) -> Markup {
    let well = facts.trouble.is_empty();
    let inside = html! {
        h1 { "How things stand" }
        @if well {
            p.well { "The worker is ready." }
        } @else {
            div.alert role="alert" {
                p { strong { "The worker is not ready." } }
                ul { @for line in facts.trouble.lines() { li { (line) } } }
            }
        }
        @for note in facts.notes.lines() { p.note { (note) } }
        @if let Some((run, why)) = &facts.broke_off {
            p.alert role="alert" { "Run " (run) " broke off: " (why) ". Order it again, it goes on where it was." }
        }
        dl.figures {
            (figure("Waiting", facts.waiting.map(|waiting| waiting.waiting.to_string()), "no worker has had them yet"))
            (figure("In hand", facts.waiting.map(|waiting| waiting.in_hand.to_string()), "being worked on, or waiting for a retry"))
            (figure("Dead letters", facts.depth.map(|depth| depth.to_string()), "wait for a person"))
            @let lag = facts.recent.as_deref().map(lag);
            (figure("Lag", lag.map(|lag| lag.map_or_else(|| "–".to_owned(), |lag| format!("{lag:.1} s"))), "from WorkOS to the mirror, median of the newest events"))
            (figure("Retried", facts.open.as_ref().map(|open| open.count.to_string()), "tried, and without outcome yet"))
            (figure("Oldest of them", facts.open.as_ref().map(|open| open.oldest_at.map_or_else(|| "–".to_owned(), age)),
                facts.open.as_ref().and_then(|open| open.oldest_reason.as_deref()).unwrap_or("since it reached us")))
            (figure("Events API", facts.tail.as_ref().ok().map(|tail| tail.as_ref().map_or_else(|| "never read".to_owned(), |tail| age(tail.checked_at))), "since it was last read"))
            (figure("Cursor", facts.tail.as_ref().ok().map(|tail| tail.as_ref().and_then(|tail| tail.event_at).map_or_else(|| "–".to_owned(), age)), "age of the last event that was read"))
            (figure("WorkOS", Some(if facts.unwell.is_some() { "unwell" } else { "answers" }.to_owned()), facts.unwell.unwrap_or("and takes our key")))
            (figure("Breaker", Some(if facts.breaker_open { "open" } else { "closed" }.to_owned()),
                if facts.breaker_open { "most events fail: nothing is buried" } else { "events flow" }))
        }
        h2 { "Dead letters by reason" }
        @match facts.dead {
            Some([]) => p { "There are none." },
            Some(letters) => {
                table {
                    caption.hidden { "Dead letters by reason" }
                    thead { tr { th scope="col" { "Reason" } th.number scope="col" { "Dead letters" } } }
                    tbody {
                        @for (reason, count) in by_reason(letters) {
                            tr {
                                th scope="row" { a href=(address("/dead-letters", &[("reason", reason.to_owned())])) { (reason) } }
                                td.number data-label="Dead letters" { (count) }
                            }
                        }
                    }
                }
                p { a.button href=(address("/dead-letters", &[])) { "Look at all " (letters.len()) } }
            },
            None => p.note { "They could not be read just now, or are too many for a page: " code { "worker dlq list" } " shows them." },
        }
        (outcomes(facts.recent.as_deref()))
        (runs(facts.runs.as_deref(), facts.under_way))
    };
    frame("How things stand", Some((facts.env, visitor)), &inside)
}

fn figure(name: &str, value: Option<String>, about: &str) -> Markup {
    html! {
        div {
            dt { (name) }
            dd {
                @if let Some(value) = value { strong { (value) } } @else { strong title="could not be told" { "?" } }
                span { (about) }
            }
        }
    }
}

fn outcomes(recent: Option<&[Recent]>) -> Markup {
    html! {
        h2 { "Recent outcomes" }
        @match recent {
            None => p.note { "The ledger did not answer in time." },
            Some([]) => p { "No event was seen yet." },
            Some(events) => {
                ul.counts aria-label=(format!("Outcomes of the newest {} events", events.len())) {
                    @for (outcome, count) in count(events) { li { strong { (count) } " " (outcome) } }
                }
                table {
                    caption { "The newest events" }
                    thead { tr { th scope="col" { "Type" } th scope="col" { "Object" } th scope="col" { "Outcome" } th scope="col" { "Made" } } }
                    tbody {
                        @for event in events.iter().take(RECENT_SHOWN) {
                            tr {
                                th scope="row" { (event.event_type) }
                                td.id data-label="Object" { (event.object_id.as_deref().unwrap_or("–")) }
                                td data-label="Outcome" {
                                    (event.outcome.as_deref().unwrap_or("open"))
                                    @if let Some(reason) = &event.reason { " " small { (reason) } }
                                }
                                td data-label="Made" { @match event.created_at { Some(at) => (time(at)), None => "–" } }
                            }
                        }
                    }
                }
            },
        }
    }
}

fn count(events: &[Recent]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event.outcome.as_deref().unwrap_or("open")).or_default() += 1;
    }
    counts
}

/// The median of the seconds from WorkOS making an event to its outcome.
fn lag(events: &[Recent]) -> Option<f64> {
    let mut lags: Vec<f64> = events
        .iter()
        .filter_map(|event| Some((event.settled_at? - event.created_at?).as_seconds_f64()))
        .collect();
    lags.sort_unstable_by(f64::total_cmp);
    lags.get(lags.len() / 2).copied()
}

fn runs(runs: Option<&[Run]>, under_way: Option<i64>) -> Markup {
    html! {
        h2 { "Runs" }
        @match runs {
            None => p.note { "The records did not answer in time." },
            Some([]) => p { "Nothing was replayed, discarded, filled or verified yet." },
            Some(runs) => {
                table {
                    caption.hidden { "The newest runs" }
                    thead { tr { th scope="col" { "Run" } th scope="col" { "Who, and why" } th scope="col" { "Result" } th scope="col" { "Begun" } } }
                    tbody {
                        @for run in runs {
                            tr {
                                th scope="row" { (run.command) " " (run.id) }
                                td data-label="Who, and why" {
                                    (run.actor.as_deref().unwrap_or("nobody named"))
                                    @if let Some(why) = &run.reason { ": " (why) }
                                }
                                td data-label="Result" { (result(run, under_way)) }
                                td data-label="Begun" { (time(run.started_at)) }
                            }
                        }
                    }
                }
            },
        }
    }
}

/// `done, 12 of 12`
fn result(run: &Run, under_way: Option<i64>) -> String {
    let how = match run.result.as_deref() {
        Some(result) => result,
        None if under_way == Some(run.id) => "under way",
        None => "not finished",
    };
    let count = |name: &str| run.counts.as_ref().and_then(|counts| counts.get(name)?.as_u64());
    match (count("selected"), count("done"), count("already")) {
        (Some(selected), Some(done), already) => {
            format!("{how}, {} of {selected}", done + already.unwrap_or(0))
        }
        _ => how.to_owned(),
    }
}

pub(super) fn list(visitor: &Visitor, facts: &List<'_>) -> Markup {
    let List { env, filter, meant, begins, shown, run, under_way } = facts;
    let inside = html! {
        h1 { "Dead letters" }
        @if let Some(run) = run {
            p.well role="status" {
                (run.command) " " (run.id) ": " (result(run, *under_way)) "."
                @if run.command == Action::Replay.command() { " The workers ask WorkOS again; what dies again comes back here." }
            }
        }
        (filter_form(filter))
        p.total { strong { (total(meant)) } }
        @if !meant.is_empty() {
            p.actions {
                @for action in [Action::Replay, Action::Discard] {
                    a.button href=(confirm_address(action, filter)) { (title(action)) " " (these(meant.len())) "…" }
                }
            }
            table {
                caption { "Oldest first, " (begins + 1) " to " (begins + shown.len()) " of " (meant.len()) }
                thead { tr { th scope="col" { "Number" } th scope="col" { "Type" } th scope="col" { "Object" } th scope="col" { "Reason" } th.number scope="col" { "Attempts" } th scope="col" { "Died" } } }
                tbody {
                    @for letter in *shown {
                        tr {
                            th scope="row" { a href=(address(&format!("/dead-letters/{}", letter.seq), &[])) aria-label=(format!("Show dead letter {}", letter.seq)) { (letter.seq) } }
                            td data-label="Type" { (letter.event.event_type) }
                            td.id data-label="Object" { (letter.event.object_id.as_deref().unwrap_or("–")) }
                            td data-label="Reason" { (letter.reason) " " small { (letter.error) } }
                            td.number data-label="Attempts" { (letter.attempts) }
                            td data-label="Died" { (time(letter.died_at)) }
                        }
                    }
                }
            }
            @if let Some(last) = shown.last() && begins + shown.len() < meant.len() {
                p { a.button rel="next" href=(next(filter, last.seq)) { "Next" } }
            }
        }
    };
    frame("Dead letters", Some((env, visitor)), &inside)
}

fn next(filter: &Filter, after: u64) -> String {
    let mut fields = fields_of(filter);
    fields.push(("after", after.to_string()));
    address("/dead-letters", &fields)
}

fn confirm_address(action: Action, filter: &Filter) -> String {
    let mut fields = vec![("action", action.command().to_owned())];
    fields.extend(fields_of(filter));
    address("/confirm", &fields)
}

fn filter_form(filter: &Filter) -> Markup {
    let said: BTreeMap<&str, String> = fields_of(filter).into_iter().collect();
    let value = |name: &str| said.get(name).map_or("", String::as_str);
    html! {
        details.panel {
            summary {
                "Filter"
                @for (name, value) in fields_of(filter) { small { " " (name) ": " (value) } }
            }
            form.filter method="get" action=(address("/dead-letters", &[])) {
                div {
                    label for="reason" { "Reason" }
                    select #reason name="reason" {
                        option value="" { "any" }
                        @for reason in Failure::CLASSES { option value=(reason) selected[value("reason") == reason] { (reason) } }
                    }
                }
                div {
                    label for="kind" { "Kind" }
                    select #kind name="kind" {
                        option value="" { "any" }
                        @for kind in Kind::ALL { option value=(kind.name()) selected[value("kind") == kind.name()] { (kind.name()) } }
                    }
                }
                div { label for="type" { "Event type" } input #type name="type" value=(value("type")) placeholder="user.updated"; }
                div { label for="id" { "Id of object or event" } input #id name="id" value=(value("id")); }
                div { label for="since" { "Died since" } input #since name="since" value=(value("since")) placeholder="2h, or a time"; }
                div { label for="until" { "Died before" } input #until name="until" value=(value("until")) placeholder="10m, or a time"; }
                div { label for="limit" { "Only the first" } input #limit name="limit" inputmode="numeric" value=(value("limit")); }
                div.actions { button type="submit" { "Show" } a.button href=(address("/dead-letters", &[])) { "All" } }
            }
        }
    }
}

pub(super) fn letter(env: &str, visitor: &Visitor, letter: &DeadLetter, entry: Option<&Entry>) -> Markup {
    let event = &letter.event;
    let only = Filter { id: Some(event.id.clone()), ..Filter::default() };
    let inside = html! {
        h1 { "Dead letter " (letter.seq) }
        p.alert { strong { (letter.reason) } ": " (letter.error) }
        dl.facts {
            (fact("Event", &event.id))
            (fact("Type", &event.event_type))
            (fact("Object", event.object_id.as_deref().unwrap_or("–")))
            (fact("Organization", event.organization_id.as_deref().unwrap_or("–")))
            div { dt { "Died" } dd { (time(letter.died_at)) } }
            div { dt { "First seen" } dd { (time(letter.first_seen)) } }
            (fact("Attempts", &letter.attempts.to_string()))
            (fact("Sequence in the stream", &letter.stream_seq.to_string()))
            @match entry {
                Some(entry) => {
                    (fact("Outcome in the ledger", entry.outcome.as_deref().unwrap_or("open")))
                    (fact("Reason in the ledger", entry.reason.as_deref().unwrap_or("–")))
                },
                None => (fact("In the ledger", "nothing is known of it")),
            }
        }
        p.actions {
            @for action in [Action::Replay, Action::Discard] {
                a.button href=(confirm_address(action, &only)) { (title(action)) "…" }
            }
        }
        p.hint { "The whole story: " code { "worker explain " (event.id) } }
        p { a href=(address("/dead-letters", &[])) { "Back to the list" } }
    };
    frame(&format!("Dead letter {}", letter.seq), Some((env, visitor)), &inside)
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd.id { (value) } } }
}

pub(super) fn confirm(env: &str, visitor: &Visitor, asked: &Confirm<'_>) -> Markup {
    let Confirm { action, filter, meant, said } = asked;
    let question = format!("{} {}?", title(*action), total(meant));
    let inside = html! {
        h1 { (title(*action)) }
        @if let Some(said) = said { p.alert role="alert" { (said) } }
        @if meant.is_empty() {
            p { "There is nothing to " (action.command()) "." }
        } @else {
            p.question { strong { (question) } }
            p.hint {
                @match action {
                    Action::Replay => "WorkOS is asked again about their objects, and the mirror follows. That is always safe.",
                    Action::Discard => "They are marked as done without asking. Their events stay dead in the ledger.",
                }
            }
            @let fields = fields_of(filter);
            @if !fields.is_empty() {
                dl.facts { @for (name, value) in &fields { (fact(name, value)) } }
            }
            form.panel method="post" action=(address("/act", &[])) {
                (word(visitor))
                input type="hidden" name="action" value=(action.command());
                input type="hidden" name="count" value=(meant.len());
                input type="hidden" name="through" value=(meant.iter().map(|letter| letter.seq).max().unwrap_or(0));
                @for (name, value) in &fields { input type="hidden" name=(name) value=(value); }
                label for="actor" { "Who you are, for the record" }
                input #actor name="actor" maxlength=(WORDS_MOST) autocomplete="username";
                label for="why" { "Why, for the record" @if *action == Action::Replay { " (if you like)" } }
                input #why name="why" maxlength=(WORDS_MOST) required[*action == Action::Discard];
                label for="rate" { "How many a second" }
                input #rate name="rate" value=(DEFAULT_RATE);
                label.check { input #yes type="checkbox" name="yes" value="yes" required; " Yes, " (action.command()) " " (these(meant.len())) }
                button type="submit" { (title(*action)) " " (these(meant.len())) }
            }
        }
        p { a href=(address("/dead-letters", &fields_of(filter))) { "Back to the list" } }
    };
    frame(title(*action), Some((env, visitor)), &inside)
}

const fn title(action: Action) -> &'static str {
    match action {
        Action::Replay => "Replay",
        Action::Discard => "Discard",
    }
}

fn these(count: usize) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{count} dead letters") }
}

fn total(letters: &[DeadLetter]) -> String {
    crate::dead_letter::list::total(letters.len(), &by_reason(letters))
}

fn word(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="csrf" value=(visitor.word); }
}

fn time(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (at.format("%Y-%m-%d %H:%M:%S UTC")) } }
}

/// `3 min`
fn age(since: DateTime<Utc>) -> String {
    let seconds = (clock::now() - since).num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// What is around every page.
fn frame(name: &str, inside_of: Option<(&str, &Visitor)>, inside: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (name) " · workos-sync" }
                link rel="stylesheet" href=(address("/style.css", &[]));
            }
            body {
                header {
                    p.name { a href=(PATH) { "workos-sync" } @if let Some((env, _)) = inside_of { " " span.env { (env) } } }
                    @if let Some((_, visitor)) = inside_of {
                        nav aria-label="Pages" {
                            a href=(PATH) { "Overview" }
                            a href=(address("/dead-letters", &[])) { "Dead letters" }
                            form method="post" action=(address("/sign-out", &[])) { (word(visitor)) button.quiet type="submit" { "Sign out" } }
                        }
                    }
                }
                main { (inside) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::act::Counts;

    #[test]
    fn an_age_is_as_exact_as_it_matters() {
        let ago = |seconds| age(clock::now() - chrono::TimeDelta::seconds(seconds));
        assert_eq!([ago(5), ago(600), ago(7_300), ago(200_000)], ["5 s", "10 min", "2 h", "2 days"]);
        assert_eq!(ago(-100), "0 s", "another clock may be ahead");
    }

    #[test]
    fn a_run_tells_how_far_it_is() {
        let counts = serde_json::to_value(Counts { selected: 10, done: 3, already: 1 }).ok();
        let run = |result: Option<&str>, counts| Run {
            id: 7,
            command: "replay".to_owned(),
            actor: None,
            reason: None,
            counts,
            started_at: clock::now(),
            result: result.map(str::to_owned),
        };
        assert_eq!(result(&run(None, counts.clone()), Some(7)), "under way, 4 of 10");
        assert_eq!(result(&run(None, None), None), "not finished");
        assert_eq!(result(&run(Some("stopped"), counts), None), "stopped, 4 of 10");
    }
}
