//! Strangers who mean no good, each beside a client who does: what he gets, and what the router holds.

#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/target.rs"]
mod target;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use graft_integration_tests::{http, until};
use graft_model::DType;
use graft_transport::{Connection, Protocol, Role};
use graft_wire::{ClientReply, ClientRequest, encode_frame};
use quinn::{RecvStream, SendStream};
use target::{BUDGET, MEMORY, PATIENCE, Target, in_turn, limits};

/// Opens as many streams as it may in a moment, and does something with each.
async fn streams<F>(connection: &Connection, most: usize, each: impl Fn(SendStream, RecvStream) -> F) -> usize
where
    F: Future<Output = ()> + Send + 'static,
{
    for opened in 0..most {
        let opening = tokio::time::timeout(Duration::from_millis(200), connection.open_raw());
        match opening.await {
            Ok(Ok((send, receive))) => drop(tokio::spawn(each(send, receive))),
            _ => return opened,
        }
    }
    most
}

/// Connections, and on each streams that announce the largest tensor and send so much of it: how many bytes of that many.
async fn unfinished(
    target: &Target,
    connections: usize,
    on_each: usize,
    sent: impl Fn(usize) -> usize,
) -> Vec<Connection> {
    let endpoint = target.endpoint();
    let sizes = target.info.cuts.iter().map(|c| c.bytes_sent(DType::F32));
    let largest = sizes.max().expect("cut points");
    let part = sent(largest);
    let mut kept = vec![];
    for _ in 0..connections {
        let connection = target.connect(&endpoint).await;
        let frame = encode_frame(&ClientRequest::Probe, largest).expect("a frame");
        streams(&connection, on_each, |mut send, receive| {
            let frame = frame.clone();
            async move {
                let _ = send.write_all(&frame).await;
                let _ = send.write_all(&vec![1; part]).await;
                // Until the router has had enough of it.
                let _ = send.stopped().await;
                drop(receive);
            }
        })
        .await;
        kept.push(connection);
    }
    kept
}

#[test]
fn sizes_that_are_announced_take_nothing_from_others() {
    in_turn(async {
        let target = Target::new().await;
        let _kept = unfinished(&target, 16, 128, |_| 1).await;
        target.beside("sizes that are announced").await;
    });
}

#[test]
fn bytes_that_arrive_and_never_end_take_their_own_place() {
    in_turn(async {
        let target = Target::new().await;
        let _kept = unfinished(&target, 24, 24, |largest| largest - 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        target.beside("requests that lack a byte").await;
    });
}

#[test]
fn replies_that_nobody_reads_hold_nobody_up() {
    in_turn(async {
        let target = Target::new().await;
        let endpoint = target.endpoint();
        let mut kept = vec![];
        for _ in 0..48 {
            let connection = target.connect(&endpoint).await;
            let model = target.info.id;
            let frame = encode_frame(&ClientRequest::Describe { model }, 0).expect("a frame");
            streams(&connection, 128, |mut send, receive| {
                let frame = frame.clone();
                async move {
                    let _ = send.write_all(&frame).await;
                    let _ = send.finish();
                    // The reply is there, and stays where it is.
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    drop(receive);
                }
            })
            .await;
            kept.push(connection);
        }
        target.beside("replies that nobody reads").await;
    });
}

/// Requests without pause, so many at a time.
async fn flood(target: &Target, connections: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let mut floods = vec![];
    for _ in 0..connections {
        // Each from a port of its own.
        let endpoint = target.endpoint();
        let connection = target.connect(&endpoint).await;
        for _ in 0..128 {
            let (request, payload) = target.request(BUDGET);
            let (connection, endpoint) = (connection.clone(), endpoint.clone());
            floods.push(tokio::spawn(async move {
                let _kept = endpoint;
                loop {
                    let again =
                        connection.call::<_, ClientReply>(&request, payload.clone(), limits(), 4 * BUDGET);
                    if again.await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }));
        }
    }
    floods
}

#[test]
fn a_flood_costs_those_who_make_it() {
    in_turn(async {
        for connections in [1, 8, 9] {
            let target = Target::new().await;
            let floods = flood(&target, connections).await;
            // The planner has seen it.
            tokio::time::sleep(Duration::from_secs(3)).await;
            target
                .beside(&format!("a flood by {connections} connections"))
                .await;
            let plan = target.site.ask(target.site.planner_http, "/v1/plan");
            let share: u64 = plan["plan"]["partitions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|p| p["share"].as_u64())
                .sum();
            assert!(share > 0, "what can be served is: {plan}");
            floods.iter().for_each(tokio::task::JoinHandle::abort);
        }
    });
}

/// What the router's health answers beside an attack, and whether standard clients are served.
fn assert_http(target: &Target, what: &str) {
    for path in ["/healthz", "/readyz"] {
        let began = Instant::now();
        let answer = http::get(target.site.http, path);
        let took = began.elapsed();
        assert!(answer.is_some_and(|a| a.0 == 200), "{what}: {path} answers");
        assert!(took <= Duration::from_secs(1), "{what}: {path} takes {took:?}");
    }
    let spec = &target.info.cuts[target.info.last().index() - 2].tensors[0];
    let mut shape = vec![1];
    shape.extend(&spec.shape);
    let body = serde_json::json!({
        "inputs": [{ "name": spec.name, "shape": shape, "datatype": "FP32", "data": vec![0.5; spec.elements] }],
        "parameters": { "budget_ms": 3000, "partition_point": target.info.last().0 - 2 },
    });
    let path = "/v2/models/efficientnet-lite0/infer";
    let mut answered = 0;
    for _ in 0..10 {
        let answer = http::post(target.site.http, path, &[], body.to_string().as_bytes());
        answered += usize::from(answer.is_some_and(|(status, _)| status == 200));
    }
    assert!(
        answered >= 9,
        "{what}: {answered} of 10 standard clients are served\n{}",
        target.site.logs()
    );
}

/// A socket to the router's HTTP on which something was sent.
fn sent(target: &Target, head: &str, body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(target.site.http).expect("the router takes sockets");
    socket.write_all(head.as_bytes()).expect("a head is taken");
    // What is not wanted need not be taken whole.
    let _ = socket.write_all(body);
    socket
}

fn post(length: usize) -> String {
    format!(
        "POST /v2/models/efficientnet-lite0/infer HTTP/1.1\r\nHost: r\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[test]
fn standard_clients_and_health_are_answered_beside_attacks_over_http() {
    in_turn(async {
        let target = Target::new().await;
        // The first of them makes the planner plan for standard clients.
        until("standard clients are served", PATIENCE, || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_http(&target, "nobody"))).is_ok()
        });

        let mut refused = String::new();
        let mut socket = sent(&target, &post(116_000_000), b"{");
        let patience = Some(Duration::from_secs(2));
        socket.set_read_timeout(patience).expect("a socket has a timeout");
        let _ended_or_not = socket.read_to_string(&mut refused);
        assert!(
            refused.starts_with("HTTP/1.1 413"),
            "a body that can't fit is refused at once: {refused:?}"
        );
        let announced: Vec<TcpStream> = (0..8).map(|_| sent(&target, &post(60_000_000), b"{")).collect();
        assert_http(&target, "bodies that are announced");
        target.beside("bodies that are announced").await;
        drop(announced);

        let idle: Vec<TcpStream> = (0..600).map(|_| sent(&target, "", b"")).collect();
        let slow: Vec<TcpStream> = (0..600).map(|_| sent(&target, "POST /v2/models", b"")).collect();
        assert_http(&target, "sockets that are idle or slow");
        target.beside("sockets that are idle or slow").await;
        drop((idle, slow));

        let nonsense = r#"{"":0},"#.repeat((32 << 20) / 7);
        let bodies = [
            format!("{{\"inputs\": [{nonsense}{{}}]}}"),
            format!("{{\"parameters\": {{\"a\": [{nonsense}{{}}]}}, \"inputs\": []}}"),
        ];
        let to = target.site.http;
        let sending: Vec<_> = (0..6)
            .map(|n| {
                let body = bodies[n % 2].clone();
                std::thread::spawn(move || {
                    http::post(to, "/v2/models/efficientnet-lite0/infer", &[], body.as_bytes())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        assert_http(&target, "bodies of nonsense");
        for sent in sending {
            let answer = sent.join().expect("it is sent");
            assert!(
                answer.is_none_or(|(status, _)| status >= 400),
                "nonsense is refused"
            );
        }
        assert!(target.memory() <= MEMORY, "{} bytes", target.memory());
    });
}

#[test]
fn handshakes_that_nobody_ends_keep_nobody_out() {
    in_turn(async {
        let target = Target::new().await;
        let to: SocketAddr = target.site.quic;
        let mut kept = vec![];
        for _ in 0..400 {
            let endpoint = target.endpoint();
            let begun = endpoint.clone();
            // The first packet goes out; what comes back is never answered.
            let connecting = async move {
                begun
                    .connect(to, Role::Router.server_name(), Protocol::Client)
                    .await
            };
            let _ = tokio::time::timeout(Duration::from_micros(300), connecting).await;
            kept.push(endpoint);
        }
        target.beside("handshakes that nobody ends").await;
    });
}

#[test]
fn a_damaged_store_of_the_planner_keeps_nobody_from_being_served() {
    in_turn(async {
        let target = Target::with(|site| {
            std::fs::create_dir_all(site.file("planner-state")).expect("a state folder");
            std::fs::write(site.file("planner-state/plan.redb"), vec![0x5a; 300_000]).expect("a store");
        })
        .await;
        target.beside("a damaged store").await;
        let names: Vec<String> = std::fs::read_dir(target.site.file("planner-state"))
            .expect("a state folder")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let is_store = |name: &&String| name.ends_with(".redb");
        assert_eq!(
            names.iter().filter(is_store).count(),
            2,
            "a fresh one beside the damaged: {names:?}"
        );
        let status = target.site.ask(target.site.planner_http, "/v1/status");
        assert!(status["store_trouble"].is_null(), "{status}");
    });
}
