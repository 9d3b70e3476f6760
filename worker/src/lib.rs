//! JetStream to WorkOS to Postgres.
//!
//! In the order data visits them: [`consumer`] pulls deliveries and settles them, [`process`] carries one
//! batch from start to finish, [`decide`] says where each event stands and what an answer means,
//! [`sync`] asks, claims and writes, with [`workos`] for the questions, [`guard`] for the races,
//! [`object`] for the kinds, [`ledger`] for the records. [`failure`] says what each failure asks of us
//! and [`backoff`] how long that takes; [`dead_letter`] keeps what needs a person, and [`breaker`] keeps it from
//! being everything.

pub mod backoff;
pub mod breaker;
pub mod command;
pub mod config;
pub mod consumer;
mod crash;
pub mod database;
pub mod dead_letter;
pub mod decide;
pub mod failure;
pub mod guard;
pub mod ledger;
pub mod metrics;
pub mod object;
pub mod outcome;
pub mod process;
pub mod sync;
pub mod workos;
