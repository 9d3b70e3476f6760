//! Places where a test can make a worker die, as if killed there.

use shared::id::ObjectRef;

/// Dies here when a debug build runs with `SYNC_CRASH_AT` naming this place. Release builds have no such
/// places.
#[inline]
pub(crate) fn point(place: &str) {
    die_if("SYNC_CRASH_AT", place);
}

/// Dies here when a debug build runs with `SYNC_CRASH_ON` naming this object: its answer cannot be read
/// without that.
#[inline]
pub(crate) fn object(object: &ObjectRef) {
    die_if("SYNC_CRASH_ON", &object.id);
}

#[inline]
fn die_if(setting: &str, here: &str) {
    #[cfg(debug_assertions)]
    if std::env::var(setting).is_ok_and(|wanted| wanted == here) {
        tracing::warn!(here, "dying here because {setting} says so");
        // No destructors, no goodbye to the broker or the database: like kill -9.
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = (setting, here);
}
