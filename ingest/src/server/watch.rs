//! Closes connections on which nothing happens. One coarse timer a connection looks at what passed
//! since its last look, so that a request itself costs no timer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};

/// How often a connection is looked at: its timeouts are as exact as this.
pub(super) const TICK: Duration = Duration::from_secs(2);

/// Looks without a new request before a kept-alive connection is closed, 76 s: longer than the
/// 60 s of common load balancers, so that they close first and lose no request on a closed one.
const IDLE_TICKS: u32 = 38;

/// The same while all slots are taken and others wait for one, 4 s.
const CROWDED_TICKS: u32 = 2;

/// Looks in which bytes but no whole head came, 10 s.
const HEAD_TICKS: u32 = 5;

/// Looks after [`Verdict::Finish`] before a connection is cut, 12 s: longer than a body may take.
const FINISH_TICKS: u32 = 6;

/// What happened on a connection.
#[derive(Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
    read: AtomicU64,
    http2: AtomicBool,
}

impl Activity {
    /// A request is in hand until the guard goes.
    pub(super) fn request(&self, http2: bool) -> InHand<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if http2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        InHand(self)
    }
}

/// A request that is not answered yet.
pub(super) struct InHand<'a>(&'a Activity);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let it be.
    Keep,
    /// Answer what is in hand, take nothing new.
    Finish,
    /// Drop it.
    Cut,
}

/// The memory between two looks at one connection.
#[derive(Default)]
pub(super) struct Watch {
    begun: u64,
    /// Bytes read by the last look at which there was a new request.
    read: u64,
    idle_ticks: u32,
    head_ticks: u32,
    finishing_ticks: u32,
}

impl Watch {
    /// One look. `crowded` says that others wait for this connection's slot.
    pub(super) fn look(&mut self, activity: &Activity, crowded: bool) -> Verdict {
        if self.finishing_ticks > 0 {
            self.finishing_ticks += 1;
            return if self.finishing_ticks > FINISH_TICKS { Verdict::Cut } else { Verdict::Keep };
        }
        let begun = activity.begun.load(Ordering::Relaxed);
        let in_hand = begun != activity.ended.load(Ordering::Relaxed);
        let read = activity.read.load(Ordering::Relaxed);
        if in_hand || begun != self.begun {
            *self = Self { begun, read, ..Self::default() };
            return Verdict::Keep;
        }
        self.idle_ticks += 1;
        // HTTP/2 may speak between requests; the bytes of its pings are no head.
        if read != self.read && !activity.http2.load(Ordering::Relaxed) {
            self.head_ticks += 1;
        }
        if self.head_ticks >= HEAD_TICKS {
            return Verdict::Cut;
        }
        let allowed = if crowded { CROWDED_TICKS } else { IDLE_TICKS };
        if self.idle_ticks < allowed {
            return Verdict::Keep;
        }
        self.finishing_ticks = 1;
        Verdict::Finish
    }
}

/// A connection whose reads are counted.
pub(super) struct Watched<T> {
    inner: T,
    activity: Arc<Activity>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if result.is_ready() {
            self.activity.read.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until the verdict is no longer to keep it: how many looks, and what then.
    fn patience(watch: &mut Watch, activity: &Activity, crowded: bool) -> (u32, Verdict) {
        (1..1000)
            .map(|looks| (looks, watch.look(activity, crowded)))
            .find(|(_, verdict)| *verdict != Verdict::Keep)
            .expect("patience ends")
    }

    fn bytes(activity: &Activity) {
        activity.read.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn a_connection_that_says_nothing_is_closed_when_idle_too_long_and_sooner_when_others_wait() {
        let activity = Activity::default();
        assert_eq!(patience(&mut Watch::default(), &activity, false), (IDLE_TICKS, Verdict::Finish));
        assert_eq!(patience(&mut Watch::default(), &activity, true), (CROWDED_TICKS, Verdict::Finish));
    }

    #[test]
    fn a_head_that_comes_in_drops_is_not_waited_for() {
        let activity = Activity::default();
        bytes(&activity);
        assert_eq!(patience(&mut Watch::default(), &activity, false), (HEAD_TICKS, Verdict::Cut));
        // The same after a request was answered.
        let mut watch = Watch::default();
        drop(activity.request(false));
        assert_eq!(watch.look(&activity, false), Verdict::Keep);
        bytes(&activity);
        assert_eq!(patience(&mut watch, &activity, false), (HEAD_TICKS, Verdict::Cut));
    }

    #[test]
    fn pings_of_http2_are_no_head() {
        let activity = Activity::default();
        let mut watch = Watch::default();
        drop(activity.request(true));
        assert_eq!(watch.look(&activity, false), Verdict::Keep);
        bytes(&activity);
        assert_eq!(patience(&mut watch, &activity, false), (IDLE_TICKS, Verdict::Finish));
    }

    #[test]
    fn a_request_in_hand_or_a_new_one_keeps_a_connection() {
        let activity = Activity::default();
        let mut watch = Watch::default();
        let in_hand = activity.request(false);
        for _ in 0..1000 {
            assert_eq!(watch.look(&activity, true), Verdict::Keep);
        }
        drop(in_hand);
        for _ in 0..1000 {
            bytes(&activity);
            drop(activity.request(false));
            assert_eq!(watch.look(&activity, true), Verdict::Keep);
        }
        assert_eq!(patience(&mut watch, &activity, false), (IDLE_TICKS, Verdict::Finish));
    }

    #[test]
    fn a_connection_that_does_not_finish_is_cut() {
        let activity = Activity::default();
        let mut watch = Watch::default();
        assert_eq!(patience(&mut watch, &activity, false).1, Verdict::Finish);
        let _in_hand = activity.request(false);
        assert_eq!(patience(&mut watch, &activity, false), (FINISH_TICKS, Verdict::Cut));
    }
}
