//! Log lines are limited for each cause: whoever makes a program log can't fill a disk.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Lines of one cause, a place in the source, that are written within [`WINDOW`].
const MOST: u32 = 50;
/// Time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Passes so many lines of each cause, and counts the rest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limited(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    causes: Mutex<Causes>,
    /// Some were left out that nobody was told of.
    any: AtomicBool,
}

type Causes = HashMap<Identifier, Cause, BuildHasherDefault<std::hash::DefaultHasher>>;

#[derive(Debug)]
struct Cause {
    began: Instant,
    written: u32,
    left_out: u64,
    target: &'static str,
    line: Option<u32>,
}

/// Lines of a cause that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The module.
    pub target: &'static str,
    /// Its line in the source.
    pub line: u32,
    pub lines: u64,
}

impl Limited {
    fn causes(&self) -> MutexGuard<'_, Causes> {
        self.0.causes.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn passes(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut causes = self.causes();
        let cause = causes.entry(metadata.callsite()).or_insert_with(|| Cause {
            began: now,
            written: 0,
            left_out: 0,
            target: metadata.target(),
            line: metadata.line(),
        });
        if now.duration_since(cause.began) >= WINDOW {
            (cause.began, cause.written) = (now, 0);
        }
        if cause.written < MOST {
            cause.written += 1;
            return true;
        }
        cause.left_out += 1;
        self.0.any.store(true, Ordering::Relaxed);
        false
    }

    /// What was left out since this was last asked.
    fn take_left_out(&self) -> Vec<LeftOut> {
        if !self.0.any.swap(false, Ordering::Relaxed) {
            return vec![];
        }
        let mut causes = self.causes();
        let some = causes.values_mut().filter(|c| c.left_out > 0);
        some.map(|cause| LeftOut {
            target: cause.target,
            line: cause.line.unwrap_or(0),
            lines: std::mem::take(&mut cause.left_out),
        })
        .collect()
    }

    /// Tells now and then what was left out, as long as the program runs.
    pub(crate) fn tell(self) {
        let telling = move || loop {
            std::thread::sleep(WINDOW);
            for LeftOut { target, line, lines } in self.take_left_out() {
                metrics::counter!(crate::metrics::LOG_LINES_LEFT_OUT).increment(lines);
                tracing::warn!(
                    lines,
                    target,
                    line,
                    "lines of one cause were left out, since there were too many"
                );
            }
        };
        let started = std::thread::Builder::new()
            .name("graft-log".to_owned())
            .spawn(telling);
        if let Err(error) = started {
            tracing::warn!(%error, "what is left out of the log is not told");
        }
    }
}

impl<S> Filter<S> for Limited {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        // Whoever asks for details wants all of them.
        *event.metadata().level() > Level::INFO || self.passes(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flood_of_one_cause_is_counted_and_other_causes_are_written() {
        let (limited, count) = (Limited::default(), Count::default());
        let subscriber = tracing_subscriber::registry().with(count.clone().with_filter(limited.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..10_000 {
                tracing::warn!(n, "again");
            }
            tracing::warn!("another");
        });
        assert_eq!(count.0.load(Ordering::Relaxed), MOST as usize + 1);
        let left_out = limited.take_left_out();
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].lines, 10_000 - u64::from(MOST));
        assert!(left_out[0].target.ends_with("limited::tests"), "{left_out:?}");
        assert!(limited.take_left_out().is_empty());
    }
}
