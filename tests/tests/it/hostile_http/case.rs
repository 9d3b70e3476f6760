//! Random requests whose answer is known by construction.

use std::collections::VecDeque;
use std::fmt::Write as _;

use shared::clock;
use support::sim;
use support::world::WEBHOOK_SECRET;

/// `INGEST_MAX_BODY` of the story: small, so that bodies that are too large are cheap.
pub(crate) const MAX_BODY: usize = 16 << 10;

/// What `INGEST_MAX_BODY` is set to.
pub(crate) const MAX_BODY_SETTING: &str = "16KiB";

/// The default of `WORKOS_WEBHOOK_TOLERANCE`.
const TOLERANCE_MS: i64 = 180_000;

/// So far from the tolerance that a slow machine makes no difference.
const MARGIN_MS: i64 = 120_000;

/// Ids of stored events that may come again. The broker knows them for two minutes.
const REMEMBERED: usize = 16;

/// How ingest counts an answer: its status and its reason.
pub(crate) type Counted = (u16, &'static str);

pub(crate) const STORED: Counted = (200, "stored");
pub(crate) const DUPLICATE: Counted = (200, "duplicate");
const NOT_AN_EVENT: Counted = (400, "not_an_event");
const BODY_CUT: Counted = (400, "body_cut");
const MISSING: Counted = (401, "signature_missing");
const MALFORMED: Counted = (401, "signature_malformed");
const OUTSIDE: Counted = (401, "signature_outside_tolerance");
const MISMATCH: Counted = (401, "signature_mismatch");
const NOT_FOUND: Counted = (404, "not_found");
const METHOD: Counted = (405, "method_not_allowed");
const TOO_LARGE: Counted = (413, "body_too_large");

/// What has to come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// This answer.
    Answer(Counted),
    /// It is no HTTP: one of 400 to 499, or none, or a goodbye in HTTP/2, and then the end. Nobody counts it.
    Refusal,
    /// We leave before the answer; it is counted so, if it got that far.
    Unheard(Option<Counted>),
}

/// What the connection is good for afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request.
    Open,
    /// The next request or nothing: a body was refused unread.
    Perhaps,
    /// Nothing: ingest ends it.
    Ended,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In one piece.
    Whole,
    /// In several.
    Pieces,
    /// In one piece, and then we send no more.
    ThenNoMore,
    /// In one piece, and then we are gone.
    ThenGone,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manner: Manner,
    pub(crate) expected: Expected,
    pub(crate) after: After,
    /// A `HEAD`.
    pub(crate) bodiless: bool,
    /// The event that it brings, if it brings a new one.
    pub(crate) event: Option<String>,
}

impl Case {
    fn new(what: &'static str, bytes: Vec<u8>, expected: Counted) -> Self {
        Self {
            what,
            bytes,
            manner: Manner::Whole,
            expected: Expected::Answer(expected),
            after: After::Open,
            bodiless: false,
            event: None,
        }
    }

    fn after(self, after: After) -> Self {
        Self { after, ..self }
    }

    fn of(self, event: String) -> Self {
        Self { event: Some(event), ..self }
    }

    /// Whether others may follow in the same breath.
    fn can_be_followed(&self) -> bool {
        self.after == After::Open && self.manner == Manner::Whole
    }
}

/// A request in any protocol.
pub(crate) struct Plain {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) signature: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) expected: Counted,
    pub(crate) event: Option<String>,
}

/// Makes cases, from one seed always the same.
pub(crate) struct Generator {
    pub(crate) rng: fastrand::Rng,
    name: String,
    events: u64,
    stored: VecDeque<String>,
}

impl Generator {
    /// `name` makes its event ids its own.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, name: name.to_owned(), events: 0, stored: VecDeque::new() }
    }

    /// This event is in the stream for certain: it may come again.
    pub(crate) fn remember(&mut self, event: String) {
        if self.stored.len() == REMEMBERED {
            self.stored.pop_front();
        }
        self.stored.push_back(event);
    }

    /// One case, or several to be sent in one breath.
    pub(crate) fn next(&mut self, at_most: usize) -> Vec<Case> {
        let first = self.case();
        if !first.can_be_followed() || self.rng.u8(..) >= 16 {
            return vec![first];
        }
        let count = self.rng.usize(2..=8).min(at_most);
        let mut cases = vec![first];
        while cases.len() < count {
            let case = self.case();
            if case.can_be_followed() {
                cases.push(case);
            }
        }
        cases
    }

    /// One for clients that speak well.
    pub(crate) fn plain(&mut self) -> Plain {
        let (id, body) = self.body();
        let signature = sign(WEBHOOK_SECRET, now(), &body);
        let mut plain = Plain {
            method: "POST",
            path: "/webhooks/workos",
            signature: Some(signature),
            body,
            expected: STORED,
            event: None,
        };
        plain.expected = match self.rng.u32(0..14) {
            0 => {
                plain.signature = None;
                MISSING
            }
            1 => {
                plain.signature = Some("t=1".to_owned());
                MALFORMED
            }
            2 => {
                plain.body = b"another".to_vec();
                MISMATCH
            }
            3 => {
                plain.method = "GET";
                METHOD
            }
            4 => {
                plain.path = "/webhooks";
                NOT_FOUND
            }
            5 => {
                plain.body = vec![b'x'; MAX_BODY + 1];
                TOO_LARGE
            }
            6 => {
                plain.body = b"{}".to_vec();
                plain.signature = Some(sign(WEBHOOK_SECRET, now(), &plain.body));
                NOT_AN_EVENT
            }
            _ => {
                plain.event = Some(id);
                STORED
            }
        };
        plain
    }

    fn case(&mut self) -> Case {
        let case = match self.rng.u32(0..1000) {
            0..180 => self.plain_event(),
            180..280 => self.odd_event(),
            280..300 => self.odd_payload(),
            300..400 => self.duplicate(),
            400..460 => Case::new("no signature", post("", &self.body().1), MISSING).after(After::Perhaps),
            460..560 => self.malformed_signature(),
            560..640 => self.wrong_signature(),
            640..690 => self.signature_of_another_time(),
            690..740 => self.wrong_method(),
            740..790 => self.wrong_path(),
            790..820 => self.too_large(),
            820..860 => self.broken_body(),
            860..920 => self.signed_nonsense(),
            920..950 => self.huge_head(),
            950..995 => self.no_http(),
            _ => self.http2_nonsense(),
        };
        match case.manner {
            Manner::Whole if case.bytes.len() < 4096 && self.rng.u8(..) < 16 => {
                Case { manner: Manner::Pieces, ..case }
            }
            _ => case,
        }
    }

    fn id(&mut self) -> String {
        self.events += 1;
        format!("event_{}_{}", self.name, self.events)
    }

    /// An event of its own, with a payload of any size that is allowed.
    fn body(&mut self) -> (String, Vec<u8>) {
        let id = self.id();
        let types =
            ["user.updated", "organization.created", "organization_membership.deleted", "planet.found"];
        let event_type = self.rng.choice(types).unwrap_or("user.created");
        let body = self.event(&id, event_type);
        (id, body)
    }

    fn event(&mut self, id: &str, event_type: &str) -> Vec<u8> {
        let filler = match self.rng.u32(0..20) {
            0 => self.rng.usize(2_000..12_000),
            _ => self.rng.usize(0..600),
        };
        let filler = "x".repeat(filler);
        format!(
            r#"{{"id":"{id}","event":"{event_type}","data":{{"id":"user_{}","first_name":"{filler}","updated_at":"2026-01-15T12:00:00.000Z"}},"created_at":"2026-01-15T12:00:00.000Z"}}"#,
            self.rng.u32(..)
        )
        .into_bytes()
    }

    fn plain_event(&mut self) -> Case {
        let (id, body) = self.body();
        let bytes = post(&signed(&body), &body);
        match self.rng.u32(0..50) {
            0 => Case { manner: Manner::ThenNoMore, ..Case::new("event, then no more", bytes, STORED) }
                .after(After::Ended),
            // It is not known when it is stored, so it does not come again.
            1 => Case {
                manner: Manner::ThenGone,
                expected: Expected::Unheard(Some(STORED)),
                ..Case::new("event, then gone", bytes, STORED)
            },
            _ => Case::new("event", bytes, STORED),
        }
        .of(id)
    }

    /// A good event in an unusual form.
    fn odd_event(&mut self) -> Case {
        let (id, body) = self.body();
        let usual = signed(&body);
        let with = |header: &str| post(&format!("{header}{usual}"), &body);
        let changed = |from: &str, to: &str| post(&usual.replace(from, to), &body);
        let length = format!("content-length: {}\r\n", body.len());
        let line = |line: &str| request(line, &format!("{length}{usual}"), &body);
        let mut after = After::Open;
        let (what, bytes) = match self.rng.u32(0..19) {
            0 => ("other path", line("POST /api/webhooks/workos HTTP/1.1")),
            1 => ("query", line("POST /webhooks/workos?a=%00&b HTTP/1.1")),
            2 => ("absolute form", line("POST http://evil.example/webhooks/workos HTTP/1.1")),
            3 => ("no space in the signature", changed(", v1", ",v1")),
            4 => ("spaces in the signature", changed(", v1", ",    v1")),
            5 => ("upper-case header name", changed("workos-signature", "WORKOS-SIGNATURE")),
            6 => {
                let away = TOLERANCE_MS - MARGIN_MS;
                let time = now() + self.rng.i64(-away..away);
                ("signed a while ago or ahead", post(&signature(WEBHOOK_SECRET, time, &body), &body))
            }
            7 => {
                let body = [b"\xef\xbb\xbf".as_slice(), &body].concat();
                ("byte order mark", post(&signed(&body), &body))
            }
            8 => ("expects 100", with("expect: 100-continue\r\n")),
            9 => ("expects more", with("expect: the unexpected\r\n")),
            10 => ("many headers", with(&"x: y\r\n".repeat(90))),
            11 => ("large head", with(&format!("x: {}\r\n", "y".repeat(9_000)))),
            12 => (
                "wants an upgrade",
                with("connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"),
            ),
            13 => ("length twice", with(&length)),
            14 => {
                after = After::Ended;
                ("wants the end", with("connection: close\r\n"))
            }
            15 => {
                after = After::Ended;
                ("HTTP/1.0", line("POST /webhooks/workos HTTP/1.0"))
            }
            // A length beside chunks is how requests are smuggled: taken by its chunks, and then the end.
            16 => {
                after = After::Ended;
                ("length and chunks", self.chunked(&format!("content-length: 3\r\n{usual}"), &body))
            }
            17 => {
                let headers = [b"x: \xff\xfe\r\n".as_slice(), usual.as_bytes()].concat();
                ("header of bytes", post_raw(&headers, &body))
            }
            _ => ("chunks", self.chunked(&usual, &body)),
        };
        Case::new(what, bytes, STORED).after(after).of(id)
    }

    /// A good event with an unusual payload.
    fn odd_payload(&mut self) -> Case {
        let id = self.id();
        let (what, id, body) = match self.rng.u32(0..3) {
            0 => {
                let odd = self.odd_type();
                let body = self.event(&id, &odd);
                ("odd type", id, body)
            }
            1 => {
                let id = format!("{id} \u{1f980} \\\" > *");
                let body = self.event(&id, "user.updated");
                ("odd id", id, body)
            }
            _ => {
                let deep = self.rng.usize(1..8_000);
                let data = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
                let body = format!(r#"{{"event":"user.updated","data":{data},"id":"{id}"}}"#);
                ("deep payload", id, body.into_bytes())
            }
        };
        Case::new(what, post(&signed(&body), &body), STORED).of(id)
    }

    fn odd_type(&mut self) -> String {
        match self.rng.u32(0..6) {
            0 => "a b".to_owned(),
            1 => "user.>".to_owned(),
            2 => "*..".to_owned(),
            3 => "\u{1f980}".repeat(40),
            4 => "$JS.API.STREAM.DELETE.WORKOS_EVENTS".to_owned(),
            _ => "x".repeat(256),
        }
    }

    fn duplicate(&mut self) -> Case {
        let Some(id) = self.rng.choice(&self.stored).cloned() else { return self.plain_event() };
        // The id counts, not the rest.
        let body = self.event(&id, "user.updated");
        Case::new("duplicate", post(&signed(&body), &body), DUPLICATE)
    }

    fn malformed_signature(&mut self) -> Case {
        let (_, body) = self.body();
        let time = now();
        let good = sign(WEBHOOK_SECRET, time, &body);
        let digest = good.rsplit('=').next().unwrap_or_default().to_owned();
        let junk: String = (0..self.rng.usize(0..120)).map(|_| self.rng.char('!'..='~')).collect();
        let header = match self.rng.u32(0..24) {
            0 => String::new(),
            1 => "t=".to_owned(),
            2 => "v1=".to_owned(),
            3 => format!("t={time}"),
            4 => format!("v1={digest}"),
            5 => format!("t={time}, v1="),
            6 => format!("v1={digest}, t={time}"),
            7 => format!("t={time}, v1={}A", &digest[..63]),
            8 => format!("{good}, v1={digest}"),
            9 => format!("{good}, v2=x"),
            10 => format!("t={time}, v0=x, v1={digest}"),
            11 => format!("{good},"),
            12 => format!("t = {time}, v1 = {digest}"),
            13 => format!("t=+{time}, v1={digest}"),
            14 => format!("t=0{time}, v1={digest}"),
            15 => format!("t=-{time}, v1={digest}"),
            16 => format!("t={time}.5, v1={digest}"),
            17 => format!("t={time}abc, v1={digest}"),
            18 => format!("t=, v1={digest}"),
            19 => format!("T={time}, V1={digest}"),
            20 => format!("t={time},\tv1={digest}"),
            21 => format!("t={time}, v1={}", &digest[..self.rng.usize(0..64)]),
            22 => format!("t={time}, v1=0x{digest}"),
            _ => junk,
        };
        let header = format!("workos-signature: {header}\r\n");
        if self.rng.u8(..) < 20 {
            let twice = signed(&body).repeat(2);
            return Case::new("signed twice", post(&twice, &body), MALFORMED).after(After::Perhaps);
        }
        Case::new("malformed signature", post(&header, &body), MALFORMED)
    }

    fn wrong_signature(&mut self) -> Case {
        let (_, mut body) = self.body();
        let header = match self.rng.u32(0..4) {
            0 => signature("whsec_of_somebody_else", now(), &body),
            1 => signature("", now(), &body),
            2 => {
                let digest: String =
                    (0..64).map(|_| char::from(b"0123456789abcdef"[self.rng.usize(..16)])).collect();
                format!("workos-signature: t={}, v1={digest}\r\n", now())
            }
            _ => {
                let header = signed(&body);
                let place = self.rng.usize(..body.len());
                body[place] ^= 1 << self.rng.u32(0..8);
                header
            }
        };
        Case::new("wrong signature", post(&header, &body), MISMATCH)
    }

    fn signature_of_another_time(&mut self) -> Case {
        let (_, body) = self.body();
        let away = TOLERANCE_MS + MARGIN_MS + self.rng.i64(0..100_000_000);
        let time = match self.rng.u32(0..5) {
            0 => now() / 1000,
            1 => 0,
            2 => 9_000_000_000_000_000_000,
            3 => now() + away,
            _ => now() - away,
        };
        Case::new("signed at another time", post(&signature(WEBHOOK_SECRET, time, &body), &body), OUTSIDE)
    }

    fn wrong_method(&mut self) -> Case {
        let methods = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "post"];
        let method = self.rng.choice(methods).unwrap_or("GET");
        let line = format!("{method} /webhooks/workos HTTP/1.1");
        let bodiless = method == "HEAD";
        if bodiless || self.rng.bool() {
            return Case { bodiless, ..Case::new("wrong method", request(&line, "", b""), METHOD) };
        }
        let body = smuggled();
        let headers = format!("content-length: {}\r\n{}", body.len(), signed(&body));
        Case::new("wrong method with a body", request(&line, &headers, &body), METHOD).after(After::Perhaps)
    }

    fn wrong_path(&mut self) -> Case {
        let paths = [
            "/",
            "/webhooks",
            "/webhooks/workos/",
            "//webhooks/workos",
            "/webhooks/workos%2f",
            "/Webhooks/workos",
            "/webhooks/../webhooks/workos",
            "/api/webhooks",
            "/healthz",
            "/readyz",
            "/metrics",
            "/webhooks/workos;a",
            "/webhooks/w\u{f6}rkos",
            "/sync/planet/x",
            "/%00",
            "/.git/config",
            "*",
        ];
        let path = self.rng.choice(paths).unwrap_or("/");
        if self.rng.bool() {
            return Case::new("wrong path", request(&format!("GET {path} HTTP/1.1"), "", b""), NOT_FOUND);
        }
        let body = smuggled();
        let headers = format!("content-length: {}\r\n{}", body.len(), signed(&body));
        let bytes = request(&format!("PUT {path} HTTP/1.1"), &headers, &body);
        Case::new("wrong path with a body", bytes, NOT_FOUND).after(After::Perhaps)
    }

    fn too_large(&mut self) -> Case {
        let length = self.rng.usize(MAX_BODY + 1..2 * MAX_BODY);
        let mut body = smuggled();
        body = body.repeat(length / body.len() + 1);
        body.truncate(length);
        let bytes = match self.rng.u32(0..4) {
            0 => {
                let length = self.rng.u64(MAX_BODY as u64 + 1..u64::MAX - 2);
                let headers = format!("content-length: {length}\r\n{}", signed(b""));
                request("POST /webhooks/workos HTTP/1.1", &headers, b"")
            }
            1 => post(&signed(&body), &body),
            _ => self.chunked(&signed(&body), &body),
        };
        let announced = bytes.len() < MAX_BODY;
        let case = Case::new("too large", bytes, TOO_LARGE);
        // What is only announced would be waited for.
        if announced {
            Case { manner: Manner::ThenNoMore, after: After::Ended, ..case }
        } else {
            case.after(After::Perhaps)
        }
    }

    /// A body that ends early, or whose chunks are none.
    fn broken_body(&mut self) -> Case {
        let (_, body) = self.body();
        let headers = signed(&body);
        let chunks = |chunks: &str| {
            let bytes = request(
                "POST /webhooks/workos HTTP/1.1",
                &format!("transfer-encoding: chunked\r\n{headers}"),
                chunks.as_bytes(),
            );
            Case::new("broken chunks", bytes, BODY_CUT).after(After::Ended)
        };
        match self.rng.u32(0..8) {
            0 => chunks("zz\r\nabc"),
            1 => chunks("fffffffffffffffff\r\nabc"),
            2 => chunks("3\r\nabcdef0\r\n\r\n"),
            3 => chunks(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000))),
            4 => chunks(&format!("3\r\nabc\r\n0\r\nx: {}\r\n\r\n", "x".repeat(20_000))),
            _ => {
                let whole =
                    if self.rng.bool() { post(&headers, &body) } else { self.chunked(&headers, &body) };
                let shortest = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0) + 4;
                let bytes = whole[..self.rng.usize(shortest..whole.len())].to_vec();
                let case = Case::new("cut body", bytes, BODY_CUT).after(After::Ended);
                if self.rng.bool() {
                    Case { manner: Manner::ThenNoMore, ..case }
                } else {
                    Case { manner: Manner::ThenGone, expected: Expected::Unheard(Some(BODY_CUT)), ..case }
                }
            }
        }
    }

    /// Signed by WorkOS, and still no event.
    fn signed_nonsense(&mut self) -> Case {
        let (id, mut body) = self.body();
        match self.rng.u32(0..8) {
            0 => body = Vec::new(),
            1 => body = vec![0; self.rng.usize(1..1000)],
            2 => {
                body = (0..self.rng.usize(1..1000)).map(|_| self.rng.u8(..)).collect();
                // Nothing that begins so is UTF-8.
                body.insert(0, 0xff);
            }
            3 => body.truncate(self.rng.usize(..body.len())),
            4 => body = "[".repeat(self.rng.usize(1..MAX_BODY)).into_bytes(),
            5 => body = format!(r#"{{"id":"{id}"}}"#).into_bytes(),
            6 => body = format!(r#"{{"id":"{id}","event":7}}"#).into_bytes(),
            _ => body = format!(r#"{{"id":"{id}\r\nX: y","event":"user.updated"}}"#).into_bytes(),
        }
        let bytes =
            if self.rng.bool() { post(&signed(&body), &body) } else { self.chunked(&signed(&body), &body) };
        Case::new("signed nonsense", bytes, NOT_AN_EVENT)
    }

    fn huge_head(&mut self) -> Case {
        let (_, body) = self.body();
        let headers = signed(&body);
        // The limit of 16 KiB is looked at between reads, each of up to as much again.
        let size = self.rng.usize(33_000..80_000);
        let bytes = match self.rng.u32(0..4) {
            0 => post(&format!("x: {}\r\n{headers}", "y".repeat(size)), &body),
            1 => post(&format!("{}{headers}", "x: y\r\n".repeat(self.rng.usize(101..900))), &body),
            2 => request(&format!("GET /{} HTTP/1.1", "a".repeat(size)), "", b""),
            _ => b"\r\n".repeat(size),
        };
        refused("huge head", bytes)
    }

    fn no_http(&mut self) -> Case {
        let (_, body) = self.body();
        let headers = signed(&body);
        let length = format!("content-length: {}\r\n", body.len());
        let line = |line: &str| request(line, &format!("{length}{headers}"), &body);
        let header = |header: &[u8]| post_raw(&[header, headers.as_bytes()].concat(), &body);
        let raw = |header: &str| {
            request("POST /webhooks/workos HTTP/1.1", &format!("{header}\r\n{headers}"), &body)
        };
        let bytes = match self.rng.u32(0..28) {
            0 => line("POST /webhooks/workos HTTP/9.9"),
            1 => line("POST /webhooks/workos HTTP/2.0"),
            2 => line("POST /webhooks/workos"),
            3 => line("POST  /webhooks/workos HTTP/1.1"),
            4 => line("  POST /webhooks/workos HTTP/1.1"),
            5 => line("POST webhooks/workos HTTP/1.1"),
            6 => line("POST /web\u{1}hooks HTTP/1.1"),
            7 => header(b"bad header: x\r\n"),
            8 => header(b"x : y\r\n"),
            9 => header(b"x: y\r\n z\r\n"),
            10 => header(b"no colon\r\n"),
            11 => header(b"x: a\0b\r\n"),
            12 => header(b"x: a\rb\r\n"),
            13 => header(b"\xff\xfe: x\r\n"),
            14 => raw(&format!("{length}content-length: 3")),
            15 => raw("content-length: 3, 3"),
            16 => raw("content-length: +3"),
            17 => raw("content-length: -1"),
            18 => raw("content-length: 0x3"),
            19 => raw("content-length: 99999999999999999999"),
            20 => raw("transfer-encoding: chunked, gzip"),
            21 => raw("transfer-encoding: identity"),
            22 => request("POST /webhooks/workos HTTP/1.0", "transfer-encoding: chunked\r\n", b"0\r\n\r\n"),
            // What a client says that expects TLS.
            23 => b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".repeat(10),
            24 => Vec::new(),
            _ => {
                let mut bytes: Vec<u8> = (0..self.rng.usize(1..2000)).map(|_| self.rng.u8(..)).collect();
                // No method begins so.
                bytes[0] |= 0x80;
                bytes
            }
        };
        if self.rng.u8(..) < 64 {
            let head = post(&headers, b"");
            let end = self.rng.usize(..head.len() - 2);
            let case = refused("cut head", head[..end].to_vec());
            return Case { manner: Manner::ThenGone, expected: Expected::Unheard(None), ..case };
        }
        refused("no HTTP", bytes)
    }

    /// The preface of HTTP/2, and then none of it.
    fn http2_nonsense(&mut self) -> Case {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        match self.rng.u32(0..3) {
            0 => bytes.truncate(self.rng.usize(1..bytes.len())),
            1 => {}
            _ => bytes.extend((0..self.rng.usize(1..500)).map(|_| self.rng.u8(..))),
        }
        refused("HTTP/2 and none", bytes)
    }

    /// In chunks of any size.
    fn chunked(&mut self, headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("transfer-encoding: chunked\r\n{headers}");
        let mut bytes = request("POST /webhooks/workos HTTP/1.1", &head, b"");
        let mut left = body;
        while !left.is_empty() {
            let largest = left.len().min(8_000);
            let (chunk, rest) = left.split_at(self.rng.usize(largest.div_ceil(8)..=largest));
            let extension = if self.rng.u8(..) < 16 { ";a=\"b\"" } else { "" };
            bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            left = rest;
        }
        bytes.extend_from_slice(if self.rng.bool() { b"0\r\n\r\n" } else { b"0\r\nx: y\r\n\r\n" });
        bytes
    }
}

/// Not a request.
fn refused(what: &'static str, bytes: Vec<u8>) -> Case {
    Case {
        expected: Expected::Refusal,
        manner: Manner::ThenNoMore,
        after: After::Ended,
        ..Case::new(what, bytes, MALFORMED)
    }
}

/// A body that would be requests, if it were read as such: they would be answered and counted.
fn smuggled() -> Vec<u8> {
    request("POST /webhooks/workos HTTP/1.1", "content-length: 0\r\n", b"").repeat(3)
}

fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut head = String::with_capacity(line.len() + headers.len() + body.len() + 32);
    // Writing into a String cannot fail.
    let _ = write!(head, "{line}\r\nhost: ingest.example\r\n{headers}\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    request("POST /webhooks/workos HTTP/1.1", &format!("content-length: {}\r\n{headers}", body.len()), body)
}

/// The same with headers that need not be text.
fn post_raw(headers: &[u8], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    let line = b"POST /webhooks/workos HTTP/1.1\r\nhost: ingest.example\r\n";
    [line.as_slice(), length.as_bytes(), headers, b"\r\n", body].concat()
}

fn now() -> i64 {
    clock::now().timestamp_millis()
}

fn sign(secret: &str, time: i64, body: &[u8]) -> String {
    sim::sign(secret, time, body).expect("a signature")
}

/// The header.
fn signature(secret: &str, time: i64, body: &[u8]) -> String {
    format!("workos-signature: {}\r\n", sign(secret, time, body))
}

/// As WorkOS signs.
pub(crate) fn signed(body: &[u8]) -> String {
    signature(WEBHOOK_SECRET, now(), body)
}
