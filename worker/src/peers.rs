//! Other workers that run stages of the same routes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use graft_transport::{Connection, Endpoint, Link, Protocol, Role};

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

    pub fn is_connected(&self) -> bool {
        self.link.current().is_some()
    }

    /// Requests for each of its partitions.
    pub fn pressure(&self) -> f64 {
        self.in_flight.load(Ordering::Relaxed) as f64 / self.partitions.max(1) as f64
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection to it, if there is one now.
    pub fn connection(&self) -> Option<Connection> {
        self.link.current()
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

/// Connections to other workers; plans share them. One that no plan uses any more is closed.
pub(crate) struct Peers {
    endpoint: Endpoint,
    links: HashMap<(String, SocketAddr), Weak<Link>>,
}

impl Peers {
    pub fn new(endpoint: Endpoint) -> Self {
        Peers {
            endpoint,
            links: HashMap::new(),
        }
    }

    /// The connection to a worker.
    pub fn link(&mut self, name: &str, address: SocketAddr) -> Arc<Link> {
        self.links.retain(|_, link| link.strong_count() > 0);
        let key = (name.to_owned(), address);
        if let Some(link) = self.links.get(&key).and_then(Weak::upgrade) {
            return link;
        }
        let open = Link::open(
            self.endpoint.clone(),
            address,
            Role::Worker,
            Protocol::Work,
            |_| {},
        );
        let link = Arc::new(open);
        self.links.insert(key, Arc::downgrade(&link));
        link
    }
}
