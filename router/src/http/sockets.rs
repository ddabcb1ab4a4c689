//! The sockets of HTTP callers: where there are many, the one that was not used for longest makes place for another.

use std::any::Any;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use graft_transport::network_of;
use socket2::SockRef;

/// Time for which a caller may take nothing of what is sent to him; then his socket is gone, and so is what waits for it.
const TAKES_WITHIN: Duration = Duration::from_secs(10);
/// Sockets that may be open at a time; one more takes the place of another, of the address that has most.
pub(super) const MOST_SOCKETS: usize = 400;

/// The sockets that are open.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    stream: TcpStream,
    address: IpAddr,
    calls: usize,
    used: Instant,
}

/// A socket's place; given back when it is dropped with its connection.
#[derive(Debug)]
pub(super) struct Socket {
    sockets: Arc<Sockets>,
    id: u64,
}

/// A call on a socket that is under way.
#[derive(Debug)]
pub(super) struct OnSocket(Arc<Socket>);

impl Sockets {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A caller connected: his socket is kept with his connection.
    pub fn connected(self: &Arc<Self>, io: &dyn Any, kept: &mut Extensions) {
        let Some(stream) = io.downcast_ref::<actix_web::rt::net::TcpStream>() else {
            return;
        };
        let (Ok(own), Ok(peer)) = (stream.as_fd().try_clone_to_owned(), stream.peer_addr()) else {
            return;
        };
        if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(TAKES_WITHIN)) {
            tracing::debug!(%error, "callers that take no answers are waited for as long as the system does");
        }
        kept.insert(self.enter(TcpStream::from(own), network_of(peer.ip())));
    }

    fn enter(self: &Arc<Self>, stream: TcpStream, address: IpAddr) -> Arc<Socket> {
        let mut inner = self.lock();
        if inner.open.len() >= MOST_SOCKETS {
            inner.make_place();
        }
        let id = inner.next;
        inner.next += 1;
        let entry = Entry {
            stream,
            address,
            calls: 0,
            used: Instant::now(),
        };
        inner.open.insert(id, entry);
        drop(inner);
        let sockets = Arc::clone(self);
        Arc::new(Socket { sockets, id })
    }
}

impl Inner {
    fn make_place(&mut self) {
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        for entry in self.open.values() {
            *by_address.entry(entry.address).or_default() += 1;
        }
        let crowded = by_address.into_iter().max_by_key(|(_, count)| *count);
        let Some((crowded, _)) = crowded else { return };
        let of_address = self.open.iter().filter(|(_, e)| e.address == crowded);
        let idlest = of_address
            .min_by_key(|(_, e)| (e.calls > 0, e.used))
            .map(|(id, _)| *id);
        if let Some(gone) = idlest.and_then(|id| self.open.remove(&id)) {
            // Where it is closed already, that was to be.
            let _ = gone.stream.shutdown(Shutdown::Both);
        }
    }
}

impl OnSocket {
    /// A call begins.
    pub fn begin(socket: &Arc<Socket>) -> Self {
        socket.note(1);
        OnSocket(Arc::clone(socket))
    }
}

impl Drop for OnSocket {
    fn drop(&mut self) {
        self.0.note(-1);
    }
}

impl Socket {
    fn note(&self, calls: isize) {
        if let Some(entry) = self.sockets.lock().open.get_mut(&self.id) {
            entry.calls = entry.calls.saturating_add_signed(calls);
            entry.used = Instant::now();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.sockets.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_idlest_socket_makes_place_and_one_with_a_call_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets: Arc<Sockets> = Arc::default();
        let address: IpAddr = [127, 0, 0, 1].into();
        let mut callers = vec![];
        for _ in 0..=MOST_SOCKETS {
            let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let socket = sockets.enter(accepted, address);
            // The first has a call.
            let call = callers.is_empty().then(|| OnSocket::begin(&socket));
            callers.push((caller, socket, call));
        }
        assert_eq!(sockets.lock().open.len(), MOST_SOCKETS);
        let mut byte = [0];
        assert_eq!(callers[1].0.read(&mut byte).unwrap(), 0, "the second is closed");
        callers[0].0.set_nonblocking(true).unwrap();
        assert!(callers[0].0.read(&mut byte).is_err(), "the first is open");
        callers.clear();
        assert!(sockets.lock().open.is_empty());
    }
}
