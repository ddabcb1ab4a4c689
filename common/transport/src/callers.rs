//! Who is connected to an endpoint: bounds of connections, of each address and in all, and of what their windows may hold.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use quinn::VarInt;

use crate::account::network_of;

/// Part of the free places that the connections of one address may take, as a multiple.
const ADDRESS_TIMES: usize = 4;
/// Bytes by which the windows of all connections may have grown together (512 MiB); beyond it, none grows.
const MOST_WINDOWS: u64 = 512 << 20;
/// Close code: another caller needs the place.
const CODE_PLACE: u32 = 3;

/// Handshakes that may be under way at a time.
const MOST_HANDSHAKES: usize = 1024;
/// Handshakes under way from which on callers have to show that they are where they say (a token, RFC 9000, section 8.1.2).
const RETRY_FROM: usize = 32;

/// What a window of a connection begins with, and may grow to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// At first.
    pub first: u32,
    /// At most; reached by requests that come in whole.
    pub most: u32,
}

impl Window {
    /// The same at all times: for peers that are known.
    pub const fn fixed(bytes: u32) -> Self {
        Window {
            first: bytes,
            most: bytes,
        }
    }
}

/// Requests that a connection may have open before it has brought one, where its window begins small.
const FIRST_REQUESTS: u32 = 32;

/// Requests that a connection may have open at first.
pub(crate) fn first_requests(window: Window, requests: u32) -> u32 {
    match window.first < window.most {
        true => requests.min(FIRST_REQUESTS),
        false => requests,
    }
}

/// The callers of an endpoint.
#[derive(Debug)]
pub(crate) struct Callers {
    most: usize,
    window: Window,
    /// Requests that a connection may have open once it has brought some.
    requests: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
    windows: u64,
    handshakes: HashMap<IpAddr, usize>,
    under_way: usize,
}

#[derive(Debug)]
struct Entry {
    quinn: quinn::Connection,
    address: IpAddr,
    window: u32,
    /// What it began with.
    first: u32,
    /// Requests that it may have open.
    allowed: u32,
    requests: usize,
    /// When it had its last request.
    used: Instant,
}

/// What to do with someone who knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knock {
    /// Let the handshake go on.
    Enter,
    /// Have him show that he is where he says.
    Prove,
    /// There are too many.
    Refuse,
}

/// A handshake's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    callers: Arc<Callers>,
    address: IpAddr,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    callers: Arc<Callers>,
    id: u64,
}

impl Callers {
    /// For so many connections with such windows.
    pub fn new(most: usize, window: Window, requests: u32) -> Arc<Self> {
        Arc::new(Callers {
            most,
            window,
            requests,
            inner: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Someone knocks; `proven`: he showed that he is where he says.
    pub fn knock(self: &Arc<Self>, from: SocketAddr, proven: bool) -> (Knock, Option<Handshake>) {
        let mut inner = self.lock();
        if !proven && inner.under_way >= RETRY_FROM {
            return (Knock::Prove, None);
        }
        let address = network_of(from.ip());
        let free = MOST_HANDSHAKES.saturating_sub(inner.under_way);
        let of_address = inner.handshakes.get(&address).copied().unwrap_or(0);
        if free == 0 || of_address >= free.saturating_mul(ADDRESS_TIMES) {
            return (Knock::Refuse, None);
        }
        inner.handshakes.insert(address, of_address + 1);
        inner.under_way += 1;
        drop(inner);
        let callers = Arc::clone(self);
        (Knock::Enter, Some(Handshake { callers, address }))
    }

    /// Tells all that they should ask others from now on.
    pub fn say_goodbye(&self) {
        for entry in self.lock().open.values() {
            goodbye(entry.quinn.clone());
        }
    }

    /// A handshake succeeded. Where there are too many, of the address or in all, the one goes that was not used for longest: of the address,
    /// or of the address that has most.
    pub fn enter(self: &Arc<Self>, quinn: &quinn::Connection) -> Place {
        let address = network_of(quinn.remote_address().ip());
        let mut inner = self.lock();
        let free = self.most.saturating_sub(inner.open.len());
        let of_address = inner.by_address.get(&address).copied().unwrap_or(0);
        if free == 0 || of_address >= free.saturating_mul(ADDRESS_TIMES) {
            let crowded = inner.by_address.iter().max_by_key(|(_, count)| **count);
            let crowded = crowded.map(|(address, count)| (*address, *count));
            let from = match crowded {
                Some((other, count)) if count > of_address => other,
                _ => address,
            };
            let idle = inner.open.iter().filter(|(_, e)| e.address == from);
            if let Some((&id, entry)) = idle.min_by_key(|(_, e)| (e.requests > 0, e.used)) {
                tracing::debug!(peer = %entry.quinn.remote_address(), "a connection makes place for another");
                entry
                    .quinn
                    .close(VarInt::from_u32(CODE_PLACE), b"another caller needs the place");
                inner.leave(id);
            }
        }
        let id = inner.next;
        inner.next += 1;
        *inner.by_address.entry(address).or_default() += 1;
        let entry = Entry {
            quinn: quinn.clone(),
            address,
            window: self.window.first,
            first: self.window.first,
            allowed: first_requests(self.window, self.requests),
            requests: 0,
            used: Instant::now(),
        };
        inner.open.insert(id, entry);
        drop(inner);
        Place {
            callers: Arc::clone(self),
            id,
        }
    }
}

/// Tells a caller that it should ask others from now on.
pub(crate) fn goodbye(quinn: quinn::Connection) {
    tokio::spawn(async move {
        // Who is gone, or takes no such stream, need not be told.
        if let Ok(mut stream) = quinn.open_uni().await {
            let _gone = stream.finish();
            let _gone = stream.stopped().await;
        }
    });
}

impl Inner {
    fn leave(&mut self, id: u64) {
        let Some(entry) = self.open.remove(&id) else {
            return;
        };
        self.windows -= u64::from(entry.window - entry.first);
        if let Some(count) = self.by_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&entry.address);
            }
        }
    }
}

impl Place {
    /// A request of it begins.
    pub fn begins(&self) {
        if let Some(entry) = self.callers.lock().open.get_mut(&self.id) {
            entry.requests += 1;
            entry.used = Instant::now();
        }
    }

    /// A request came in whole: who brings requests may have more under way.
    pub fn came_in(&self) {
        let (most, requests) = (self.callers.window.most, self.callers.requests);
        let mut inner = self.callers.lock();
        let windows = inner.windows;
        let Some(entry) = inner.open.get_mut(&self.id) else {
            return;
        };
        if entry.allowed < requests {
            entry.allowed = entry.allowed.saturating_mul(2).min(requests);
            entry
                .quinn
                .set_max_concurrent_bi_streams(VarInt::from_u32(entry.allowed));
        }
        let wider = entry.window.saturating_mul(2).min(most);
        let more = u64::from(wider - entry.window);
        if more == 0 || windows + more > MOST_WINDOWS {
            return;
        }
        entry.window = wider;
        entry.quinn.set_receive_window(VarInt::from_u32(wider));
        inner.windows += more;
    }

    /// A request of it is over.
    pub fn ends(&self) {
        if let Some(entry) = self.callers.lock().open.get_mut(&self.id) {
            entry.requests = entry.requests.saturating_sub(1);
            entry.used = Instant::now();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut inner = self.callers.lock();
        inner.under_way -= 1;
        if let Some(count) = inner.handshakes.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inner.handshakes.remove(&self.address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.callers.lock().leave(self.id);
    }
}
