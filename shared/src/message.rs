//! An event as a message for `JetStream`: the same from whoever publishes it, so that the broker recognizes it
//! when it comes again on another channel.

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use bytes::Bytes;

use crate::event::Event;
use crate::subject;
use crate::telemetry::TraceParent;

/// Room for a message of the usual size, about 350 bytes.
const USUAL_PAYLOAD: usize = 512;

/// Headers and payload of the message that carries this event.
pub fn of(event: &Event, trace: Option<&TraceParent>) -> serde_json::Result<(HeaderMap, Bytes)> {
    let mut payload = Vec::with_capacity(USUAL_PAYLOAD);
    serde_json::to_writer(&mut payload, event)?;
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id(&event.id));
    if let Some(trace) = trace {
        headers.insert(subject::TRACEPARENT, trace.as_str());
    }
    Ok((headers, payload.into()))
}

/// The id by which the broker knows duplicates. WorkOS's ids are plain; one that would not survive as
/// a header goes as hexadecimal digits.
fn id(event_id: &str) -> String {
    if event_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        event_id.to_owned()
    } else {
        hex::encode(event_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_any_text_is_a_header_of_one_word() {
        assert_eq!(id("event_01J8"), "event_01J8");
        assert_eq!(id("a b"), "612062");
        assert!(id("é\r\nX: y").bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
