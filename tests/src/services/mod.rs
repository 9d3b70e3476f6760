//! Real servers and the real programs, each in a private place, none of which outlives us.
//!
//! [`place`] makes directories that an unprivileged user reaches, [`port`] finds free ports,
//! [`find`] finds servers that are installed, [`guardian`] ends what we leave behind, [`process`]
//! starts and stops one process under it. On these stand [`postgres`], [`nats`], the official WorkOS
//! [`emulator`], a real [`browser`] and, from [`binaries`] built on the spot, [`program`].

pub mod binaries;
pub mod browser;
pub mod emulator;
pub mod find;
pub mod guardian;
pub mod nats;
pub mod place;
pub mod port;
pub mod postgres;
pub mod process;
pub mod program;

pub use browser::Browser;
pub use emulator::Emulator;
pub use nats::Nats;
pub use place::Place;
pub use postgres::{Durability, Postgres};
pub use program::{Finished, Program, Running};
