//! What both programs must agree on, and nothing more.
//!
//! In the order data visits them: [`catalogue`] knows every event type, [`envelope`] reads what WorkOS wrote,
//! [`event`] is what travels, [`message`] puts it on the wire, [`sync_request`] is the wish for an immediate sync,
//! [`subject`] says where they go, [`broker`] connects and prepares the streams. Around them: [`config`] reads
//! settings, [`telemetry`] sets up logs and trace context,
//! [`metrics`] and [`admin`] show how things are, [`shutdown`] ends politely, [`exit`] says how it ended.

pub mod admin;
pub mod broker;
pub mod catalogue;
pub mod clock;
pub mod config;
pub mod envelope;
pub mod event;
pub mod exit;
pub mod id;
pub mod listen;
pub mod message;
pub mod metrics;
pub mod shutdown;
pub mod subject;
pub mod sync_request;
pub mod telemetry;
pub mod timestamp;
