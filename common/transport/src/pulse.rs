//! Whether the other end of a connection is alive while something is asked of it.
//!
//! QUIC itself notices after its idle timeout, which is long beside a deadline. Whoever was asked something acknowledges it within
//! 25 ms and a round trip (RFC 9000, section 13.2.1), however long the answer takes; so does whoever is asked for a sign of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bincode::Encode;
use tokio::sync::{Notify, watch};

use crate::connection::Connection;

/// Time between two looks at what came in.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time between two questions for a sign of life at least; a quarter of the silence that is too long, if that is more.
const ASK_EVERY: Duration = Duration::from_millis(20);
const ASK_PART: u32 = 4;

/// Whether the other end of a connection is alive while something is asked of it. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Silence in nanoseconds that is too long.
    longest: AtomicU64,
    /// Number of questions that are open.
    open: AtomicUsize,
    asked: Notify,
    silent: watch::Sender<bool>,
}

/// A question that is open.
#[derive(Debug)]
pub struct Asking(Arc<Inner>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until the other side of a connection gives no sign of life for so long, or the connection is gone. `sign`: a request that it
/// answers at once.
pub async fn silence<Q: Encode>(connection: &Connection, sign: &Q, longest: Duration) {
    let pulse = Pulse::new(longest);
    let _asking = pulse.asks();
    tokio::select! {
        () = pulse.take(connection, sign, &|_| ()) => {}
        () = pulse.silent() => {}
    }
}

impl Pulse {
    /// Where so long a silence is too long.
    pub fn new(longest: Duration) -> Self {
        let pulse = Pulse {
            inner: Arc::new(Inner {
                longest: AtomicU64::default(),
                open: AtomicUsize::default(),
                asked: Notify::new(),
                silent: watch::Sender::new(false),
            }),
        };
        pulse.set_longest(longest);
        pulse
    }

    /// So long a silence is too long from now on.
    pub fn set_longest(&self, longest: Duration) {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.inner.longest.store(nanos, Ordering::Relaxed);
    }

    /// Something is asked, as long as what comes back lives.
    pub fn asks(&self) -> Asking {
        self.inner.open.fetch_add(1, Ordering::Relaxed);
        self.inner.asked.notify_one();
        Asking(Arc::clone(&self.inner))
    }

    /// It gave no sign of life for too long, and none yet since.
    pub fn is_silent(&self) -> bool {
        *self.inner.silent.borrow()
    }

    /// Waits until it has been silent for too long.
    pub async fn silent(&self) {
        self.becomes(true).await;
    }

    /// Waits until it gives a sign of life again, or another connection takes the place of this one.
    pub async fn heard(&self) {
        self.becomes(false).await;
    }

    async fn becomes(&self, silent: bool) {
        let mut seen = self.inner.silent.subscribe();
        // The sender lives as long as this does.
        let _always = seen.wait_for(|is| *is == silent).await;
    }

    /// Takes the pulse of a connection until it is gone. `sign`: a request that the other side answers at once; `changed`
    /// hears that it is there (`false`), when it falls silent (`true`), and when it is heard again.
    pub async fn take<Q: Encode>(
        &self,
        connection: &Connection,
        sign: &Q,
        changed: &(dyn Fn(bool) + Send + Sync),
    ) {
        let inner = &*self.inner;
        inner.silent.send_replace(false);
        // Who waits for a connection has one.
        changed(false);
        while !connection.is_closed() {
            if inner.open.load(Ordering::Relaxed) == 0 && !self.is_silent() {
                tokio::select! {
                    () = inner.asked.notified() => {}
                    _ = connection.closed() => break,
                }
            }
            self.listen(connection, sign, changed).await;
        }
        self.is_now(false, changed);
    }

    fn is_now(&self, silent: bool, changed: &(dyn Fn(bool) + Send + Sync)) {
        let modified = |was: &mut bool| std::mem::replace(was, silent) != silent;
        if self.inner.silent.send_if_modified(modified) {
            changed(silent);
        }
    }

    /// Until nothing is asked and nothing is overdue, or the connection is gone. A question whose asker waited no longer is still a
    /// question: many short ones find out what one long one would.
    async fn listen<Q: Encode>(
        &self,
        connection: &Connection,
        sign: &Q,
        changed: &(dyn Fn(bool) + Send + Sync),
    ) {
        let mut received = connection.received();
        let (mut quiet, mut looked) = (Duration::ZERO, Instant::now());
        let mut unasked = Duration::ZERO;
        while !connection.is_closed() {
            if self.inner.open.load(Ordering::Relaxed) == 0 && !self.is_silent() && quiet < ASK_EVERY {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            // Where this program did not get to run, it was not the other that was silent.
            let step = looked.elapsed().min(2 * LOOK_EVERY);
            looked = Instant::now();
            let now = connection.received();
            if now != received {
                (received, quiet) = (now, Duration::ZERO);
                self.is_now(false, changed);
            } else {
                quiet += step;
            }
            let longest = Duration::from_nanos(self.inner.longest.load(Ordering::Relaxed));
            let every = ASK_EVERY.max(longest / ASK_PART);
            if quiet >= longest {
                self.is_now(true, changed);
                continue;
            }
            unasked += step;
            if unasked >= every && quiet >= ASK_EVERY {
                unasked = Duration::ZERO;
                connection.ask_for_sign(sign);
            }
        }
    }
}
