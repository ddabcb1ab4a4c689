//! A way between phone and router that is slow, loses packets, or is black for a while.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use graft_model::SplitMix;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Packets that wait on one way at most; more are dropped, as in a full queue.
const QUEUE: usize = 512;

/// What a way is like.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Time of a packet in each direction.
    pub delay: Duration,
    /// Part of the packets that are lost in each direction.
    pub loss: f64,
    /// Megabits a second in each direction.
    pub mbps: f64,
}

/// A relay of packets, each client's through a socket of its own.
pub struct Relay {
    pub address: SocketAddr,
    /// Nothing passes.
    pub black: Arc<AtomicBool>,
    /// Sockets from which clients came.
    pub clients: Arc<AtomicUsize>,
}

/// One direction: packets leave in the order in which they came.
struct Lane {
    way: Way,
    dice: SplitMix,
    black: Arc<AtomicBool>,
    free: Instant,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Lane {
    fn new(
        way: Way,
        seed: u64,
        black: Arc<AtomicBool>,
        send: impl AsyncFn(Vec<u8>) + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
        let lane = Lane {
            way,
            dice: SplitMix(seed),
            black,
            free: Instant::now(),
            queue,
        };
        let passing = async move {
            while let Some((due, packet)) = waiting.recv().await {
                sleep_until(due).await;
                send(packet).await;
            }
        };
        (lane, passing)
    }

    fn pass(&mut self, packet: &[u8]) {
        if self.black.load(Ordering::Relaxed) || self.dice.part() < self.way.loss {
            return;
        }
        let takes = Duration::from_secs_f64(packet.len() as f64 * 8.0 / (self.way.mbps * 1e6));
        self.free = self.free.max(Instant::now()) + takes;
        let _full = self.queue.try_send((self.free + self.way.delay, packet.to_vec()));
    }
}

impl Relay {
    pub async fn new(to: SocketAddr, way: Way) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
        let relay = Relay {
            address: front.local_addr().expect("an address"),
            black: Arc::default(),
            clients: Arc::default(),
        };
        let (black, clients) = (Arc::clone(&relay.black), Arc::clone(&relay.clients));
        tokio::spawn(async move {
            let mut lanes: HashMap<SocketAddr, Lane> = HashMap::new();
            let mut packet = vec![0; 2048];
            while let Ok((bytes, from)) = front.recv_from(&mut packet).await {
                if !lanes.contains_key(&from) {
                    clients.fetch_add(1, Ordering::Relaxed);
                    let seed = lanes.len() as u64 * 2 + 1;
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
                    back.connect(to).await.expect("a way to the router");
                    let (sending, answering) = (Arc::clone(&back), Arc::clone(&front));
                    let (there, passing) =
                        Lane::new(way, seed, Arc::clone(&black), async move |packet: Vec<u8>| {
                            let _sent = sending.send(&packet).await;
                        });
                    tokio::spawn(passing);
                    let (mut home, passing) =
                        Lane::new(way, seed + 1, Arc::clone(&black), async move |packet: Vec<u8>| {
                            let _sent = answering.send_to(&packet, from).await;
                        });
                    tokio::spawn(passing);
                    tokio::spawn(async move {
                        let mut packet = vec![0; 2048];
                        loop {
                            // Whoever listens no longer is no reason to stop.
                            if let Ok(bytes) = back.recv(&mut packet).await {
                                home.pass(&packet[..bytes]);
                            } else {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                    });
                    lanes.insert(from, there);
                }
                if let Some(lane) = lanes.get_mut(&from) {
                    lane.pass(&packet[..bytes]);
                }
            }
        });
        relay
    }
}
