//! A connection to one place that is opened again by itself when it is lost.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bincode::Encode;

use crate::connection::Connection;
use crate::endpoint::{Endpoint, EndpointError, Protocol};
use crate::identity::Role;
use crate::pulse::{Asking, Pulse};

/// Shortest and longest wait before the next attempt to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Time for which a connection must hold for the next wait to be the shortest again.
const HOLDS: Duration = Duration::from_secs(1);
/// What a link tells of itself: that connections end at once; that there is none.
const SHORT: &str = "short";
const NONE: &str = "none";
/// Time between two log lines of a link that does not hold.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Silence of a watched link's other end that is too long, beside what its work may take.
const SILENT_AFTER: Duration = Duration::from_millis(50);
/// Chunks for whose time its other end may be silent besides.
const SILENT_CHUNKS: u32 = 4;

/// Longest wait for a name to be looked up.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(3);

/// Where a part is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whereabouts {
    /// An address.
    Address(SocketAddr),
    /// `host:port`, which is looked up whenever a connection is made.
    Name(String),
}

impl From<SocketAddr> for Whereabouts {
    fn from(address: SocketAddr) -> Self {
        Whereabouts::Address(address)
    }
}

impl From<&str> for Whereabouts {
    fn from(text: &str) -> Self {
        match text.parse() {
            Ok(address) => Whereabouts::Address(address),
            Err(_) => Whereabouts::Name(text.to_owned()),
        }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whereabouts::Address(address) => address.fmt(f),
            Whereabouts::Name(name) => f.write_str(name),
        }
    }
}

impl Whereabouts {
    async fn address(&self) -> Result<SocketAddr, EndpointError> {
        let name = match self {
            Whereabouts::Address(address) => return Ok(*address),
            Whereabouts::Name(name) => name,
        };
        let nowhere = |why: String| EndpointError::Nowhere(format!("{name} can't be looked up: {why}"));
        let found = tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host(name)).await;
        let found = found.map_err(|_| nowhere("there was no answer in time".to_owned()))?;
        let mut found = found.map_err(|error| nowhere(error.to_string()))?;
        found
            .next()
            .ok_or_else(|| nowhere("it has no address".to_owned()))
    }
}

/// A connection to one place that is opened again by itself when it is lost. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    current: Arc<Mutex<Option<Connection>>>,
    pulse: Pulse,
    task: tokio::task::JoinHandle<()>,
}

/// Where a link leads.
struct Goal {
    endpoint: Endpoint,
    place: Whereabouts,
    role: Role,
    /// The name of the part that is meant, where it is known.
    part: Option<String>,
    protocol: Protocol,
}

impl Goal {
    /// Connects once, to the part that is meant.
    async fn connect(&self) -> Result<Connection, EndpointError> {
        let (address, role) = (self.place.address().await?, self.role);
        let connection = self.endpoint.connect_role(address, role, self.protocol).await?;
        match &self.part {
            Some(part) if !connection.may_be_called(role, part) => {
                connection.close("you are not the one that was meant");
                let cause = format!("whoever answers there has a certificate of another {role} than {part}");
                Err(EndpointError::Connect { address, cause })
            }
            _ => Ok(connection),
        }
    }

    /// Connects again and again; `attend` is called with each connection, and returns when it is gone.
    async fn reach<F: Future<Output = ()>>(
        self,
        current: Arc<Mutex<Option<Connection>>>,
        attend: impl Fn(Connection) -> F,
    ) {
        let (address, role) = (&self.place, self.role);
        let mut wait = BACK_OFF.0;
        let telling = Telling::default();
        loop {
            match self.connect().await {
                Ok(connection) => {
                    tracing::debug!(%address, %role, "connected");
                    let since = Instant::now();
                    set(&current, Some(connection.clone()));
                    attend(connection.clone()).await;
                    let reason = connection.closed().await;
                    set(&current, None);
                    if since.elapsed() >= HOLDS {
                        wait = BACK_OFF.0;
                        telling.is_over();
                        tracing::warn!(%address, %role, reason, "connection lost");
                    } else if telling.is_due(SHORT) {
                        tracing::warn!(%address, %role, reason, "connections end at once; trying again");
                    }
                }
                Err(error) if telling.is_due(NONE) => {
                    tracing::warn!(%error, %role, "no connection yet; trying again");
                }
                Err(error) => tracing::debug!(%error, %role, "no connection yet"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

/// What people were told last of something that fails again and again, and when: the same is told once a minute.
#[derive(Debug, Default)]
pub struct Telling(Mutex<Option<(Instant, String)>>);

impl Telling {
    /// Whether this is to be told now. Numbers in it, as times are, make no difference.
    pub fn is_due(&self, what: &str) -> bool {
        let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut last = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let told = last.as_ref();
        let due = told.is_none_or(|(at, told)| *told != what || at.elapsed() >= TELL_EVERY);
        if due {
            *last = Some((Instant::now(), what));
        }
        due
    }

    /// It does not fail any more.
    pub fn is_over(&self) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
}

impl Link {
    /// Keeps a connection to a part. `connected` is called with each new one.
    pub fn open(
        endpoint: Endpoint,
        place: impl Into<Whereabouts>,
        role: Role,
        protocol: Protocol,
        connected: impl Fn(Connection) + Send + Sync + 'static,
    ) -> Self {
        let goal = Goal {
            endpoint,
            place: place.into(),
            role,
            part: None,
            protocol,
        };
        let current = Arc::default();
        let reaching = goal.reach(Arc::clone(&current), move |connection| {
            connected(connection);
            std::future::ready(())
        });
        Link {
            current,
            pulse: Pulse::new(SILENT_AFTER),
            task: tokio::spawn(reaching),
        }
    }

    /// The same to the part of this name, and takes the other end's pulse while something is asked of it: `sign` is a request that it
    /// answers at once, `changed` hears when it falls silent, and when it is heard again.
    pub fn open_watched<Q: Encode + Send + Sync + 'static>(
        endpoint: Endpoint,
        place: impl Into<Whereabouts>,
        (role, part): (Role, String),
        protocol: Protocol,
        sign: Q,
        changed: impl Fn(bool) + Send + Sync + 'static,
    ) -> Self {
        let goal = Goal {
            endpoint,
            place: place.into(),
            role,
            part: Some(part),
            protocol,
        };
        let (current, pulse) = (Arc::default(), Pulse::new(SILENT_AFTER));
        let taken = pulse.clone();
        let watching = Arc::new((sign, changed));
        let reaching = goal.reach(Arc::clone(&current), move |connection| {
            let (pulse, watching) = (taken.clone(), Arc::clone(&watching));
            async move { pulse.take(&connection, &watching.0, &watching.1).await }
        });
        Link {
            current,
            pulse,
            task: tokio::spawn(reaching),
        }
    }

    /// The connection, if there is one now.
    pub fn current(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(|e| e.into_inner());
        current.clone().filter(|c| !c.is_closed())
    }

    /// There is a connection now, and the other end gives signs of life where it is watched.
    pub fn is_alive(&self) -> bool {
        self.current().is_some() && !self.pulse.is_silent()
    }

    /// The longest chunk of work at the other end is so long: it may be silent for a few of them.
    pub fn expect_chunks(&self, longest: Duration) {
        self.pulse.set_longest(SILENT_AFTER + longest * SILENT_CHUNKS);
    }

    /// Something is asked of the other end, as long as what comes back lives.
    pub fn asks(&self) -> Asking {
        self.pulse.asks()
    }

    /// Waits until the other end has been silent for too long.
    pub async fn silent(&self) {
        self.pulse.silent().await;
    }

    /// Waits until it is not, or not any more.
    pub async fn heard(&self) {
        self.pulse.heard().await;
    }
}

fn set(shared: &Mutex<Option<Connection>>, value: Option<Connection>) {
    *shared.lock().unwrap_or_else(|e| e.into_inner()) = value;
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(connection) = self.current() {
            connection.close("this link is not needed any more");
        }
    }
}
