//! Free ports on 127.0.0.1.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;

/// Below the ports that systems give to outgoing connections: a server that stops for a while finds
/// its port still free when it comes back.
const RANGE: Range<u16> = 15_000..32_000;

/// How many random ports are tried before the machine counts as full.
const TRIES: usize = 1000;

/// A port that nobody listens on, never given twice by this process. Another process may still take
/// it first: whoever starts a server there tries again with another.
pub fn free() -> anyhow::Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..TRIES {
        let port = fastrand::u16(RANGE);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("found no free port in {RANGE:?} in {TRIES} tries")
}
