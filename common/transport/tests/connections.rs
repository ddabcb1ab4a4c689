//! Two ends on loopback: calls, cancellation, identity, and peers that send garbage.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use graft_model::SplitMix;
use graft_transport::{
    Authority, CallError, ClientAuth, Connection, Endpoint, EndpointOptions, Identity, Link, Protocol, Pulse,
    Role,
};
use graft_wire::{ControlReply, Limits, PREFIX_BYTES, encode_frame};
use tokio::sync::Notify;

const PATIENCE: Duration = Duration::from_secs(5);
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A server that does what is asked; it counts handlers that were dropped unfinished.
struct Server {
    endpoint: Endpoint,
    dropped: Arc<AtomicUsize>,
    /// A handler of [`Ask::Held`] runs.
    running: Arc<Notify>,
    /// It may answer.
    release: Arc<Notify>,
}

struct CountDrop(Arc<AtomicUsize>, bool);

impl CountDrop {
    fn finished(mut self) {
        self.1 = true;
    }
}

/// What these tests ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
enum Ask {
    /// For its payload back.
    Echo,
    /// For its payload back when the test says so.
    Held,
    /// For what never comes.
    Never,
}

impl Drop for CountDrop {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn serve(identity: &Identity, auth: ClientAuth, roles: &'static [Role]) -> Server {
    let endpoint = Endpoint::server(
        LOOPBACK,
        identity,
        Protocol::Control,
        auth,
        EndpointOptions::default(),
    )
    .unwrap();
    let dropped: Arc<AtomicUsize> = Arc::default();
    let (running, release): (Arc<Notify>, Arc<Notify>) = Default::default();
    let (listening, counting) = (endpoint.clone(), Arc::clone(&dropped));
    let (tell, wait) = (Arc::clone(&running), Arc::clone(&release));
    tokio::spawn(async move {
        listening
            .listen(roles, move |connection| {
                let counting = Arc::clone(&counting);
                let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
                tokio::spawn(async move {
                    let limits = Limits {
                        payload_bytes: 1 << 20,
                    };
                    connection
                        .serve(
                            limits,
                            Duration::from_millis(500),
                            move |_, request: Ask, payload: Bytes| {
                                let guard = CountDrop(Arc::clone(&counting), false);
                                let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
                                async move {
                                    if request == Ask::Held {
                                        tell.notify_one();
                                        wait.notified().await;
                                    }
                                    if request == Ask::Never {
                                        std::future::pending::<()>().await;
                                    }
                                    guard.finished();
                                    (ControlReply::Done, payload)
                                }
                            },
                        )
                        .await
                });
            })
            .await;
    });
    Server {
        endpoint,
        dropped,
        running,
        release,
    }
}

async fn connect(identity: &Identity, server: &Server) -> Connection {
    let client = Endpoint::client(identity, EndpointOptions::default()).unwrap();
    client
        .connect_role(
            server.endpoint.local_addr().unwrap(),
            Role::Planner,
            Protocol::Control,
        )
        .await
        .unwrap()
}

async fn ask(connection: &Connection, payload: Bytes) -> Result<(ControlReply, Vec<u8>), CallError> {
    connection
        .call(&Ask::Echo, payload, Limits::default(), PATIENCE)
        .await
}

fn identities() -> (Identity, Identity) {
    let authority = Authority::new().unwrap();
    (
        authority.issue(Role::Planner, &[]).unwrap(),
        authority.issue(Role::Worker, &[]).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_comes_back_as_it_was_sent() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let connection = connect(&worker, &server).await;
    let payload = Bytes::from((0..700_000u32).map(|i| i as u8).collect::<Vec<u8>>());
    let (reply, bytes) = ask(&connection, payload.clone()).await.unwrap();
    assert_eq!((reply, Bytes::from(bytes)), (ControlReply::Done, payload));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_drops_its_handler() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let connection = connect(&worker, &server).await;
    let call = connection.call::<_, ControlReply>(
        &Ask::Never,
        Bytes::new(),
        Limits::default(),
        Duration::from_millis(200),
    );
    assert!(matches!(call.await, Err(CallError::TimedOut(_))));
    for _ in 0..100 {
        if server.dropped.load(Ordering::SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the handler was not dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_while_it_is_sent_leaves_the_connection_alone() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let connection = connect(&worker, &server).await;
    for _ in 0..20 {
        // One that is never answered, should it be there whole after all.
        let payload = Bytes::from(vec![1u8; 900 << 10]);
        let call = connection.call::<_, ControlReply>(
            &Ask::Never,
            payload,
            Limits::default(),
            Duration::from_micros(200),
        );
        assert!(call.await.is_err());
    }
    assert_eq!(
        ask(&connection, Bytes::new()).await.unwrap().0,
        ControlReply::Done
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_a_reply_that_is_on_its_way() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let connection = connect(&worker, &server).await;
    let payload = Bytes::from(vec![3u8; 1 << 20]);
    let call = tokio::spawn(async move {
        connection
            .call::<_, ControlReply>(&Ask::Held, payload, Limits::default(), PATIENCE)
            .await
    });
    server.running.notified().await;
    let mut closing = Box::pin(server.endpoint.close("going"));
    let closed = tokio::time::timeout(Duration::from_millis(100), &mut closing).await;
    assert!(closed.is_err(), "the reply is not there yet");
    server.release.notify_one();
    closing.await;
    assert_eq!(call.await.unwrap().unwrap().1.len(), 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_roles_are_turned_away() {
    let (planner, _) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Router]);
    let address = server.endpoint.local_addr().unwrap();

    // Another authority's certificate.
    let (_, stranger) = identities();
    let client = Endpoint::client(&stranger, EndpointOptions::default()).unwrap();
    assert!(
        client
            .connect_role(address, Role::Planner, Protocol::Control)
            .await
            .is_err()
    );

    // No certificate: the handshake may look done to the client, but nothing is answered.
    let anonymous = Endpoint::anonymous_trusting(&planner, EndpointOptions::default()).unwrap();
    if let Ok(connection) = anonymous
        .connect_role(address, Role::Planner, Protocol::Control)
        .await
    {
        assert!(ask(&connection, Bytes::new()).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_role_is_told_so() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Router]);
    let connection = connect(&worker, &server).await;
    let why = connection.closed().await;
    assert!(why.contains("role"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_refused_in_the_handshake() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let client = Endpoint::client(&worker, EndpointOptions::default()).unwrap();
    let address = server.endpoint.local_addr().unwrap();
    assert!(
        client
            .connect_role(address, Role::Planner, Protocol::Work)
            .await
            .is_err()
    );
}

/// Sends raw bytes on a stream of a connection of its own; the words with which the server closed it.
async fn send_raw(worker: &Identity, server: &Server, bytes: Vec<u8>) -> String {
    let connection = connect(worker, server).await;
    let sending = connection.clone();
    tokio::spawn(async move { sending.send_unframed(&bytes).await });
    tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .expect("the server closes the connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_own_connection_with_a_reason_and_no_other() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let good = connect(&worker, &server).await;
    ask(&good, Bytes::new()).await.unwrap();

    let frame = encode_frame(&Ask::Echo, 0).unwrap();
    let mut version = frame.clone();
    version[2] = 42;
    let oversized = encode_frame(&Ask::Echo, 2 << 20).unwrap();
    let mut header = frame.clone();
    header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut unknown = frame.clone();
    unknown[PREFIX_BYTES] = 200;
    let truncated = encode_frame(&Ask::Echo, 100).unwrap();
    for (bytes, word) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no Graft frame"),
        (version, "version 42"),
        (oversized, "more than"),
        (header, "header of"),
        (unknown, "decoded"),
        (truncated, "ends before"),
        (frame[..7].to_vec(), "ends before"),
    ] {
        let why = send_raw(&worker, &server, bytes).await;
        assert!(why.contains(word), "expected {word:?} in {why:?}");
    }
    assert_eq!(ask(&good, Bytes::new()).await.unwrap().0, ControlReply::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_bytes_disturb_nobody() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let good = connect(&worker, &server).await;
    let mut noise = SplitMix(7);
    for round in 0..60usize {
        let bytes: Vec<u8> = (0..round * 7 % 300).map(|_| noise.byte()).collect();
        let connection = connect(&worker, &server).await;
        // The server may close the connection before it has read all.
        let _sent = tokio::time::timeout(Duration::from_millis(100), connection.send_unframed(&bytes)).await;
    }
    assert_eq!(
        ask(&good, Bytes::from_static(b"still here")).await.unwrap().1,
        b"still here"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_comes_back_when_the_other_side_does() {
    let (planner, worker) = identities();
    let first = serve(&planner, ClientAuth::Required, &[Role::Worker]);
    let address = first.endpoint.local_addr().unwrap();
    let client = Endpoint::client(&worker, EndpointOptions::default()).unwrap();
    let times: Arc<AtomicUsize> = Arc::default();
    let counting = Arc::clone(&times);
    let link = Link::open(client, address, Role::Planner, Protocol::Control, move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
    });
    let wait_for = async |n: usize| {
        for _ in 0..400 {
            if times.load(Ordering::SeqCst) >= n && link.current().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no connection number {n}");
    };
    wait_for(1).await;
    first.endpoint.close("gone for a while").await;
    drop(first);
    let again = loop {
        let made = Endpoint::server(
            address,
            &planner,
            Protocol::Control,
            ClientAuth::Required,
            EndpointOptions::default(),
        );
        match made {
            Ok(endpoint) => break endpoint,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let listening = again.clone();
    tokio::spawn(async move { listening.listen(&[], std::mem::forget).await });
    wait_for(2).await;
}

#[test]
fn an_authority_and_its_certificates_survive_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new().unwrap();
    std::fs::write(path("ca.pem"), authority.certificate_pem()).unwrap();
    std::fs::write(path("ca.key"), authority.key_pem()).unwrap();
    let again = Authority::read(&path("ca.pem"), &path("ca.key")).unwrap();
    let (certificate, key) = again
        .issue_pem(
            Role::Router,
            None,
            &["router.example".to_owned()],
            graft_transport::VALID,
        )
        .unwrap();
    std::fs::write(path("r.pem"), certificate).unwrap();
    std::fs::write(path("r.key"), key).unwrap();
    Identity::read(&path("r.pem"), &path("r.key"), &path("ca.pem")).unwrap();
    let error = Identity::read(&path("none.pem"), &path("r.key"), &path("ca.pem")).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_says_so_and_still_answers() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[]);
    let connection = connect(&worker, &server).await;
    ask(&connection, Bytes::new()).await.unwrap();
    assert!(!connection.is_leaving());
    server.endpoint.leave();
    let told = async {
        while !connection.is_leaving() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    ask(&connection, Bytes::from_static(b"still")).await.unwrap();
    let client = Endpoint::client(&worker, EndpointOptions::default()).unwrap();
    let address = server.endpoint.local_addr().unwrap();
    let refused = client
        .connect_role(address, Role::Planner, Protocol::Control)
        .await;
    assert!(refused.is_err(), "it takes no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_uses_any_more_is_closed() {
    let (planner, worker) = identities();
    let options = EndpointOptions {
        idle: Duration::from_secs(30),
        ..EndpointOptions::default()
    };
    let server = Endpoint::server(
        LOOPBACK,
        &planner,
        Protocol::Control,
        ClientAuth::Required,
        options,
    )
    .unwrap();
    let (entering, mut entered) = tokio::sync::mpsc::channel(1);
    let listening = server.clone();
    tokio::spawn(async move {
        listening
            .listen(&[], move |c| entering.try_send(c).unwrap())
            .await;
    });
    let client = Endpoint::client(&worker, options).unwrap();
    let address = server.local_addr().unwrap();
    let connection = client
        .connect_role(address, Role::Planner, Protocol::Control)
        .await
        .unwrap();
    let there = entered.recv().await.unwrap();
    drop(connection);
    tokio::time::timeout(PATIENCE, there.closed())
        .await
        .expect("it is closed");
}

/// Passes datagrams on between a client and a server, unless it is told to lose them. Where clients reach it.
async fn way(server: SocketAddr, lost: Arc<AtomicBool>) -> SocketAddr {
    let (near, far) = (
        tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap(),
        tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap(),
    );
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut there, mut back) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((n, from)) = near.recv_from(&mut there) => {
                    client = Some(from);
                    if !lost.load(Ordering::SeqCst) {
                        far.send_to(&there[..n], server).await.unwrap();
                    }
                }
                Ok((n, _)) = far.recv_from(&mut back) => {
                    if let Some(client) = client.filter(|_| !lost.load(Ordering::SeqCst)) {
                        near.send_to(&back[..n], client).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_is_told_from_who_takes_long() {
    let (planner, worker) = identities();
    let server = serve(&planner, ClientAuth::Required, &[]);
    let lost: Arc<AtomicBool> = Arc::default();
    let address = way(server.endpoint.local_addr().unwrap(), Arc::clone(&lost)).await;
    let client = Endpoint::client(&worker, EndpointOptions::default()).unwrap();
    let connection = client
        .connect_role(address, Role::Planner, Protocol::Control)
        .await
        .unwrap();
    let (pulse, changes) = (
        Pulse::new(Duration::from_millis(150)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (taken, taking, counting) = (pulse.clone(), connection.clone(), Arc::clone(&changes));
    tokio::spawn(async move {
        let changed = move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
        };
        taken.take(&taking, &Ask::Echo, &changed).await;
    });
    // An answer that never comes, from somebody who lives.
    let asking = pulse.asks();
    let waited = tokio::time::timeout(Duration::from_secs(1), pulse.silent()).await;
    assert!(waited.is_err() && !pulse.is_silent(), "it is alive");
    lost.store(true, Ordering::SeqCst);
    let start = std::time::Instant::now();
    tokio::time::timeout(PATIENCE, pulse.silent())
        .await
        .expect("it is silent");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    lost.store(false, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, pulse.heard())
        .await
        .expect("it is heard again");
    drop(asking);
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Nobody asks anything: silence says nothing.
    lost.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // It was there, fell silent, and was heard.
    assert!(!pulse.is_silent() && changes.load(Ordering::SeqCst) == 3);
    // Questions that are given up sooner than silence is too long find it all the same.
    let found = async {
        while !pulse.is_silent() {
            let asking = pulse.asks();
            tokio::time::sleep(Duration::from_millis(60)).await;
            drop(asking);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), found)
        .await
        .expect("it is silent");
}
