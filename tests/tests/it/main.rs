//! Stories in a real world: real Postgres, real JetStream, the real programs, a stand-in WorkOS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a story, a failure of the world is a failure of the story"
)]

mod authkit_docs;
mod backfill;
mod breaker;
mod budget;
mod columns;
mod convergence;
mod crash;
mod dead_letters;
mod directories;
mod directory_burst;
mod emulator;
mod environments;
mod every_event;
mod failures;
mod groups;
mod harness;
mod hostile_http;
mod immediate;
mod ledger;
mod main_path;
mod order;
mod organization_burst;
mod outage;
mod page;
mod privacy;
mod programs;
mod records;
mod reference;
mod relations;
mod roles;
mod services;
mod slugs;
mod sync_one;
mod tail;
mod trouble;
mod verify;
mod watching;
