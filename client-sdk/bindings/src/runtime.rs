//! The library's own threads: apps bring no runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::error::GraftError;

/// Threads that wait for the network; layers run on others, which are made when they are needed.
const THREADS: usize = 1;

/// Longest time for which it is waited for a callback's end.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// Waits, for a second at most, until none of the library's threads is in a callback of the app's that says that an answer is there. For
/// languages whose interpreter must not end before: Python does it at exit.
#[uniffi::export]
pub fn settle() {
    // There is one thread that calls them: what it runs next comes after.
    if let Ok(handle) = handle() {
        let after = handle.spawn(async {});
        let _late = handle.block_on(async { tokio::time::timeout(SETTLED_WITHIN, after).await });
    }
}

/// The threads, which are started when they are first needed.
pub(crate) fn handle() -> Result<&'static Handle, GraftError> {
    static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(THREADS)
            .thread_name("graft")
            .enable_all()
            .build();
        runtime.map_err(|error| format!("no threads can be started: {error}"))
    });
    match &*RUNTIME {
        Ok(runtime) => Ok(runtime.handle()),
        Err(what) => Err(GraftError::Internal(what.clone())),
    }
}

/// Ends a task when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, GraftError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = Pin::new(&mut self.0).poll(cx);
        done.map(|done| done.map_err(|error| GraftError::Internal(error.to_string())))
    }
}

/// Runs a future on the library's threads. Whoever drops the result gives the future up.
pub(crate) async fn run<T, F>(future: F) -> Result<T, GraftError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    Task(handle()?.spawn(future)).await
}

/// The same, blocking.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, GraftError> {
    Ok(handle()?.block_on(future))
}
