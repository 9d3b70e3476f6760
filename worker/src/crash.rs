//! Places where a test can make a worker die, as if killed there.

/// Dies here when a debug build runs with `SYNC_CRASH_AT` naming this place. Release builds have no such
/// places.
#[inline]
pub(crate) fn point(place: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("SYNC_CRASH_AT").is_ok_and(|wanted| wanted == place) {
        tracing::warn!(place, "dying here because SYNC_CRASH_AT says so");
        // No destructors, no goodbye to the broker or the database: like kill -9.
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}
