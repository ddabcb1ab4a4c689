//! Tasks that may be done at the same time. This crate starts no threads: its callers bring them.

use std::sync::OnceLock;

/// A crew does several tasks at once, if it can.
pub trait Crew: Sync {
    /// Calls `task` with 0 to `count` - 1, each once, and comes back when all are done.
    fn all(&self, count: usize, task: &(dyn Fn(usize) + Sync));
}

/// A crew of one: does tasks one after the other, on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Crew for Alone {
    fn all(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
}

/// The results of tasks, in their order.
pub fn gathered<T: Send + Sync>(crew: &dyn Crew, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    crew.all(count, &|i| {
        // Each task is called once, so that each result is the first.
        results[i].get_or_init(|| task(i));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}
