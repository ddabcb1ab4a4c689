//! Certificates that are renewed while a program runs: their files are read again, and how long they are valid is told.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use graft_telemetry::metrics as names;
use graft_transport::Identity;

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time before a certificate is over from which on people are warned.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);
/// Time between two warnings before it is over.
const WARN_EVERY: Duration = Duration::from_secs(86_400);
/// Time between two warnings after it is over.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A task that keeps an identity current; it ends when this is dropped.
#[derive(Debug)]
pub struct Renewal(tokio::task::JoinHandle<()>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Renewal {
    /// Looks at the files of an identity again and again; `renewed` gets what they hold when that has changed. Files that can't be used
    /// change nothing, and are told once.
    pub fn of(mut identity: Identity, renewed: impl Fn(&Identity) + Send + 'static) -> Self {
        Renewal(tokio::spawn(async move {
            let (mut trouble, mut told) = (None, None);
            loop {
                tell_validity(&identity, &mut told);
                tokio::time::sleep(LOOK_EVERY).await;
                let (again, known) = (identity.clone(), identity);
                let read = tokio::task::spawn_blocking(move || again.read_again()).await;
                identity = match read {
                    Ok(Ok(Some(new))) if new != known => {
                        tracing::info!("the certificate was renewed");
                        (trouble, told) = (None, None);
                        renewed(&new);
                        new
                    }
                    Ok(Ok(_)) => {
                        trouble = None;
                        known
                    }
                    Ok(Err(error)) => {
                        let why = error.to_string();
                        if trouble.as_ref() != Some(&why) {
                            tracing::warn!(%error, "the certificate can't be read again; the one before is used");
                        }
                        trouble = Some(why);
                        known
                    }
                    Err(_) => known,
                };
            }
        }))
    }
}

fn tell_validity(identity: &Identity, told: &mut Option<Instant>) {
    let Some(until) = identity.not_after() else { return };
    metrics::gauge!(names::CERTIFICATE_NOT_AFTER).set(until as f64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let left = until - now.map_or(0, |d| d.as_secs() as i64);
    let every = if left > 0 { WARN_EVERY } else { TELL_EVERY };
    if left > WARN_BEFORE.as_secs() as i64 || told.is_some_and(|at| at.elapsed() < every) {
        return;
    }
    *told = Some(Instant::now());
    match left > 0 {
        true => tracing::warn!(
            days = left / 86_400,
            "the certificate is over soon: `graft ca issue` makes another"
        ),
        false => tracing::error!(
            seconds_ago = -left,
            "the certificate is over: others refuse it; `graft ca issue` makes another, which is taken up at once"
        ),
    }
}
