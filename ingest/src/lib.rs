//! WorkOS -> `JetStream`. No database, no WorkOS API: a webhook is checked, reduced to identifiers and
//! times, stored by the broker, and only then answered with 200.
//!
//! In the order a webhook visits them: [`server`] accepts the connection and bounds it, [`webhook`]
//! walks one request from its first header to its answer, [`client_address`] says who sent it,
//! [`signature`] proves that WorkOS wrote the body, [`shared::envelope`] reads what it announces,
//! [`publisher`] stores that, [`problem`] words the answer. A sync request goes through [`immediate`] and
//! [`flights`] instead. Both end in [`store`]. Around them: [`config`], [`metrics`].

pub mod client_address;
pub mod config;
pub mod flights;
pub mod groups;
pub mod immediate;
pub mod metrics;
pub mod problem;
pub mod publisher;
pub mod server;
pub mod signature;
pub mod store;
pub mod webhook;

pub use server::run;
