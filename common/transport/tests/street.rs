//! Phones on the move: requests with the first packets, changes of the network, copied packets, over a relay that takes its time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_transport::{
    Authority, ClientAuth, Connection, Endpoint, EndpointOptions, Identity, Protocol, Role,
};
use graft_wire::{ControlReply, Limits};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(5);
/// Time that the relay takes for each way.
const DELAY: Duration = Duration::from_millis(150);
const LIMITS: Limits = Limits {
    payload_bytes: 1 << 20,
};

/// What these tests ask.
#[derive(Debug, Clone, Copy, bincode::Encode, bincode::Decode)]
enum Ask {
    /// For its payload back at once.
    Echo,
    /// For its payload back after half a second.
    Slow,
}

/// A router's end, which counts what it ran and from where it was asked.
struct Server {
    endpoint: Endpoint,
    ran: Arc<AtomicUsize>,
}

fn serve(identity: &Identity, at: &str) -> Server {
    let options = EndpointOptions::for_strangers();
    let endpoint = Endpoint::server(
        at.parse().unwrap(),
        identity,
        Protocol::Client,
        ClientAuth::None,
        options,
    )
    .unwrap();
    let ran: Arc<AtomicUsize> = Arc::default();
    let (listening, counting) = (endpoint.clone(), Arc::clone(&ran));
    tokio::spawn(async move {
        let each = move |connection: Connection| {
            let counting = Arc::clone(&counting);
            tokio::spawn(async move {
                let run = move |_, request: Ask, payload: Bytes| {
                    counting.fetch_add(1, Ordering::SeqCst);
                    async move {
                        if matches!(request, Ask::Slow) {
                            tokio::time::sleep(Duration::from_millis(500)).await;
                        }
                        (ControlReply::Done, payload)
                    }
                };
                connection.serve(LIMITS, PATIENCE, run).await
            });
        };
        listening.listen(&[], each).await;
    });
    Server { endpoint, ran }
}

/// Passes packets on after [`DELAY`], in their order, and keeps those of clients.
struct Relay {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A way that takes [`DELAY`]: what goes in comes out by `send`, in its order.
fn way(
    send: impl AsyncFn(Vec<u8>) + Send + Sync + 'static,
) -> (mpsc::Sender<Vec<u8>>, impl Future<Output = ()>) {
    let (into, mut entering) = mpsc::channel::<Vec<u8>>(1024);
    let passing = async move {
        let (waiting, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
        let stamping = async {
            while let Some(packet) = entering.recv().await {
                let _full = waiting.send((Instant::now() + DELAY, packet)).await;
            }
        };
        let leaving = async {
            while let Some((at, packet)) = due.recv().await {
                tokio::time::sleep_until(at.into()).await;
                send(packet).await;
            }
        };
        tokio::join!(stamping, leaving);
    };
    (into, passing)
}

async fn relay(to: SocketAddr) -> Relay {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = front.local_addr().unwrap();
    let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    tokio::spawn(async move {
        let mut ways: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut packet = vec![0; 2048];
        while let Ok((bytes, from)) = front.recv_from(&mut packet).await {
            let there = match ways.get(&from) {
                Some(there) => there.clone(),
                None => {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    back.connect(to).await.unwrap();
                    let (sending, answering) = (Arc::clone(&back), Arc::clone(&front));
                    let (there, passing) = way(async move |packet: Vec<u8>| {
                        let _sent = sending.send(&packet).await;
                    });
                    tokio::spawn(passing);
                    let (home, passing) = way(async move |packet: Vec<u8>| {
                        let _sent = answering.send_to(&packet, from).await;
                    });
                    tokio::spawn(passing);
                    tokio::spawn(async move {
                        let mut packet = vec![0; 2048];
                        while let Ok(bytes) = back.recv(&mut packet).await {
                            let _full = home.send(packet[..bytes].to_vec()).await;
                        }
                    });
                    ways.insert(from, there.clone());
                    there
                }
            };
            keeping.lock().unwrap().push(packet[..bytes].to_vec());
            let _full = there.send(packet[..bytes].to_vec()).await;
        }
    });
    Relay { address, kept }
}

fn identity() -> Identity {
    Authority::new().unwrap().issue(Role::Router, &[]).unwrap()
}

fn phone(identity: &Identity) -> Endpoint {
    Endpoint::anonymous_trusting(identity, EndpointOptions::for_phones()).unwrap()
}

async fn connect(phone: &Endpoint, to: SocketAddr) -> Connection {
    phone
        .connect(to, Role::Router.server_name(), Protocol::Client)
        .await
        .unwrap()
}

async fn ask(connection: &Connection, what: Ask, payload: &'static [u8]) {
    let reply = connection.call::<_, ControlReply>(&what, Bytes::from_static(payload), LIMITS, PATIENCE);
    assert_eq!(reply.await.unwrap(), (ControlReply::Done, payload.to_vec()));
}

/// What a connection and a request take together.
async fn visit(phone: &Endpoint, to: SocketAddr) -> Duration {
    let start = Instant::now();
    let connection = connect(phone, to).await;
    ask(&connection, Ask::Echo, b"here I am").await;
    let took = start.elapsed();
    connection.close("done");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_is_answered_after_one_round_trip_and_copied_packets_run_nothing() {
    let identity = identity();
    let server = serve(&identity, "127.0.0.1:0");
    let at = server.endpoint.local_addr().unwrap();
    let (relay, phone) = (relay(at).await, phone(&identity));
    let first = visit(&phone, relay.address).await;
    assert!(first >= 4 * DELAY, "{first:?}: a handshake, and a request");
    relay.kept.lock().unwrap().clear();
    let second = visit(&phone, relay.address).await;
    assert!(second >= 2 * DELAY, "{second:?}");
    assert!(
        second < 4 * DELAY,
        "{second:?}: the request goes with the first packets"
    );
    assert_eq!(server.ran.load(Ordering::SeqCst), 2);
    // Someone on the way sends the same packets once more, from elsewhere.
    let copied = relay.kept.lock().unwrap().clone();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in copied {
        stranger.send_to(&packet, at).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        server.ran.load(Ordering::SeqCst),
        2,
        "a session is good for one connection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_restarted_router_turns_back_are_sent_again() {
    let identity = identity();
    let server = serve(&identity, "127.0.0.1:0");
    let at = server.endpoint.local_addr().unwrap();
    let phone = phone(&identity);
    visit(&phone, at).await;
    server.endpoint.close("restart").await;
    drop(server);
    // Its port is free when its sockets are dropped.
    let mut again = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if std::net::UdpSocket::bind(at).is_ok() {
            again = Some(serve(&identity, &at.to_string()));
            break;
        }
    }
    let again = again.expect("the port is free again");
    visit(&phone, at).await;
    assert_eq!(
        again.ran.load(Ordering::SeqCst),
        1,
        "once, after it was turned back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_at_which_nobody_is_any_more_is_found_out() {
    let identity = identity();
    let server = serve(&identity, "127.0.0.1:0");
    let at = server.endpoint.local_addr().unwrap();
    let (phone, relay) = (phone(&identity), relay(at).await);
    visit(&phone, relay.address).await;
    server.endpoint.close("gone").await;
    drop(server);
    let early = connect(&phone, relay.address).await;
    let asked = early.call::<_, ControlReply>(&Ask::Echo, Bytes::new(), LIMITS, PATIENCE);
    assert!(asked.await.is_err());
    assert!(early.is_closed());
    // What was known of it is forgotten: now it is waited for.
    let start = Instant::now();
    let refused = phone.connect(relay.address, Role::Router.server_name(), Protocol::Client);
    assert!(refused.await.is_err());
    assert!(start.elapsed() > Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_on_in_another_network() {
    let identity = identity();
    let server = serve(&identity, "127.0.0.1:0");
    let at = server.endpoint.local_addr().unwrap();
    let phone = phone(&identity);
    let connection = connect(&phone, at).await;
    ask(&connection, Ask::Echo, b"before").await;
    let before = phone.local_addr().unwrap();
    let asking = {
        let connection = connection.clone();
        tokio::spawn(async move { ask(&connection, Ask::Slow, b"in between").await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    phone.rebind().unwrap();
    assert_ne!(phone.local_addr().unwrap().port(), before.port());
    asking.await.unwrap();
    ask(&connection, Ask::Echo, b"after").await;
    assert_eq!(server.ran.load(Ordering::SeqCst), 3, "nothing ran twice");
}
