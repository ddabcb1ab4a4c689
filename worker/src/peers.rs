//! Other workers that run stages of the same routes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use graft_transport::{Endpoint, Link, Protocol, Role};
use graft_wire::{WorkRequest, WorkerEndpoint};
use tokio::sync::broadcast;

/// Another worker that runs a stage.
#[derive(Clone)]
pub(crate) struct Peer {
    link: Arc<Link>,
    name: String,
    /// On so many of its partitions.
    partitions: usize,
    /// Requests of the route that were handed over, and have not come back.
    in_flight: Arc<AtomicUsize>,
}

/// Counts a request that was handed over.
pub(crate) struct HandedOver(Arc<AtomicUsize>);

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    pub fn new(link: Arc<Link>, name: String, partitions: usize) -> Self {
        Peer {
            link,
            name,
            partitions,
            in_flight: Arc::default(),
        }
    }

    /// It is connected, and gives signs of life.
    pub fn is_alive(&self) -> bool {
        self.link.is_alive()
    }

    /// The way to it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Requests for each of its partitions.
    pub fn pressure(&self) -> f64 {
        self.in_flight.load(Ordering::Relaxed) as f64 / self.partitions.max(1) as f64
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same worker.
    pub fn is(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }

    /// One more is handed over, until this is dropped.
    pub fn count(&self) -> HandedOver {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        HandedOver(Arc::clone(&self.in_flight))
    }
}

/// Names of workers that gave no sign of life, which wait for being told to the planner.
const SUSPECTS: usize = 64;

/// Connections to other workers; plans share them. One that no plan uses any more is closed.
pub(crate) struct Peers {
    endpoint: Endpoint,
    links: HashMap<(String, String), Weak<Link>>,
    suspects: broadcast::Sender<String>,
}

impl Peers {
    pub fn new(endpoint: Endpoint) -> Self {
        Peers {
            endpoint,
            links: HashMap::new(),
            suspects: broadcast::Sender::new(SUSPECTS),
        }
    }

    /// Tells names of workers when they give no sign of life.
    pub fn suspects(&self) -> broadcast::Sender<String> {
        self.suspects.clone()
    }

    /// The connection to a worker.
    pub fn link(&mut self, host: &WorkerEndpoint) -> Arc<Link> {
        self.links.retain(|_, link| link.strong_count() > 0);
        let key = (host.name.clone(), host.address.clone());
        let known = self.links.get(&key).and_then(Weak::upgrade);
        let link = known.unwrap_or_else(|| {
            let (name, suspects) = (host.name.clone(), self.suspects.clone());
            let changed = move |silent: bool| {
                if silent {
                    tracing::warn!(worker = %name, "another worker gives no sign of life");
                    // Nobody hears it while the planner is away.
                    let _nobody = suspects.send(name.clone());
                }
            };
            let link = Arc::new(Link::open_watched(
                self.endpoint.clone(),
                host.address.as_str(),
                (Role::Worker, host.name.clone()),
                Protocol::Work,
                WorkRequest::Alive,
                changed,
            ));
            self.links.insert(key, Arc::downgrade(&link));
            link
        });
        link.expect_chunks(host.chunk.duration());
        link
    }
}
