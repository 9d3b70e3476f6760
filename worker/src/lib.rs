//! JetStream to WorkOS to Postgres.
//!
//! In the order data visits them: [`consumer`] pulls deliveries and settles them, [`process`] carries one
//! batch from start to finish, [`decide`] says where each event stands and what an answer means,
//! [`sync`] asks, claims and writes, with [`workos`] for the questions, [`guard`] for the races,
//! [`object`] for the kinds, [`ledger`] for the records. [`failure`] says what each failure asks of us
//! and [`backoff`] how long that takes. Beside them, [`tail`] reads the Events API into the same stream, and what
//! somebody waits for goes by the [`fast_lane`], with its [`relations`]; when many objects of one directory wait, [`burst`]
//! reads its list instead; when a batch asks for many that one list shows, [`by_list`] does.
//!
//! Besides events: [`backfill`] makes the mirror agree with everything that WorkOS lists, [`verify`] compares the two.
//! Both [`walk`] the lists, [`listing`] reads a page, [`whole`] composes relations, [`reconcile`] carries what a page told through the same verb,
//! [`runs`] keeps where they stand and [`progress`] shows it. [`dead_letter`] keeps what needs a person,
//! and [`breaker`] keeps it from being everything. [`standing`] says how things are, the operator [`page`] shows it.

pub mod backfill;
pub mod backoff;
pub mod breaker;
pub mod burst;
pub mod by_list;
pub mod command;
pub mod config;
pub mod consumer;
mod crash;
pub mod database;
pub mod dead_letter;
pub mod decide;
mod durable;
pub mod environment;
pub mod failure;
pub mod fast_lane;
pub mod guard;
pub mod ledger;
pub mod listing;
pub mod metrics;
pub mod object;
pub mod outcome;
pub mod page;
pub mod process;
pub mod progress;
pub mod reconcile;
pub mod relations;
pub mod runs;
pub mod standing;
pub mod stream;
pub mod sync;
pub mod tail;
pub mod verify;
pub mod walk;
pub mod whole;
pub mod workos;
