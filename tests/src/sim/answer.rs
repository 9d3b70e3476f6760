//! What goes back over the wire, if anything does.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

/// A response.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) retry_after: Option<u64>,
    pub(super) body: Bytes,
}

const JSON: &str = "application/json; charset=utf-8";

impl Reply {
    /// 200 with a body that is JSON already.
    pub(super) fn ok(body: Bytes) -> Self {
        Self { status: 200, content_type: JSON, retry_after: None, body }
    }

    /// An error in one of the shapes that WorkOS uses.
    pub(super) fn refused(status: u16, body: &Value) -> Self {
        Self { status, content_type: JSON, retry_after: None, body: Bytes::from(body.to_string()) }
    }

    /// `{"message": ...}`
    pub(super) fn message(status: u16, message: &str) -> Self {
        Self::refused(status, &json!({ "message": message }))
    }

    /// 422 that names the parameter.
    pub(super) fn invalid(code: &str, field: &str) -> Self {
        Self::refused(
            422,
            &json!({"message": "Validation failed.", "errors": [{"code": code, "field": field}]}),
        )
    }

    /// What a proxy in front of WorkOS may answer.
    pub(super) fn html(status: u16) -> Self {
        Self {
            status,
            content_type: "text/html",
            retry_after: None,
            body: Bytes::from(format!(
                "<html>\r\n<head><title>{status}</title></head>\r\n<body><center><h1>{status}</h1></center></body>\r\n</html>\r\n"
            )),
        }
    }
}

/// What the asker will see.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// A response.
    Reply(Reply),
    /// Nothing for so long, then the end of the connection.
    Silence(Duration),
    /// The connection is reset instead of an answer.
    Reset,
    /// The connection is reset in the middle of the body.
    Truncated(Reply),
}

impl Answer {
    /// The status that the asker sees, 0 for none.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Reply(reply) => reply.status,
            Self::Silence(_) | Self::Reset | Self::Truncated(_) => 0,
        }
    }
}
