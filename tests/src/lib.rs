//! Being written.
pub mod services;
pub mod sim;
pub mod world;
