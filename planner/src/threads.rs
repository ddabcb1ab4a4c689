//! Threads for the planner's core.

use std::sync::atomic::{AtomicUsize, Ordering};

use graft_certify::Crew;

/// A crew of threads, as many as the machine has cores.
#[derive(Debug, Clone, Copy)]
pub struct Threads(usize);

impl Threads {
    /// As many as there are cores.
    pub fn of_machine() -> Self {
        Threads(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl Crew for Threads {
    fn all(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                task(i);
            }
        };
        std::thread::scope(|scope| {
            // The caller is one of them.
            for _ in 1..self.0.min(count) {
                scope.spawn(work);
            }
            work();
        });
    }
}
