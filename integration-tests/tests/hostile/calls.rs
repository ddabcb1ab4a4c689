//! Bytes that are no frames, classes that nobody has, connections without end, tokens that nobody signed, calls that are given up.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_integration_tests::{http, until};
use graft_model::{CutPoint, DType};
use graft_plan::Nanos;
use graft_wire::{ClientReply, ClientRequest, InferHeader, TraceContext, WireType};

use crate::target::{BUDGET, PATIENCE, Target, in_turn, limits, rand};

/// A value of a metric, all its labels together.
fn metric(target: &Target, name: &str, label: &str) -> f64 {
    let (_, text) = http::get(target.site.http, "/metrics").expect("metrics");
    let lines = text.lines().filter(|l| l.starts_with(name) && l.contains(label));
    lines
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn bytes_that_are_no_frames_end_their_own_connections_and_fill_no_log() {
    in_turn(async {
        let target = Arc::new(Target::new().await);
        let mut attacks = vec![];
        for n in 0..8u8 {
            let target = Arc::clone(&target);
            attacks.push(tokio::spawn(async move {
                let endpoint = target.endpoint();
                loop {
                    let connection = target.connect(&endpoint).await;
                    // Of no magic, of another version, with a header that is too large, with one that is none.
                    let bytes: [&[u8]; 4] = [
                        b"GET / HTTP/1.1\r\n\r\n",
                        b"Gf\xff\xff\x01\0\0\0\0\0\0\0\0\0\0\0",
                        b"Gf\x08\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
                        b"Gf\x08\0\x04\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff",
                    ];
                    let _ended = connection.send_unframed(bytes[usize::from(n) % 4]).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }));
        }
        target.beside("bytes that are no frames").await;
        attacks.iter().for_each(tokio::task::JoinHandle::abort);
        let log = std::fs::read_to_string(target.site.file("router.log")).expect("a log");
        let told = log.lines().filter(|l| l.contains("no frame")).count();
        assert!(
            (1..=200).contains(&told),
            "{told} log lines of connections that sent no frame"
        );
        // It is told, and counted, every ten seconds.
        let end = Instant::now() + Duration::from_secs(15);
        while metric(&target, "graft_log_lines_left_out_total", "") == 0.0 {
            assert!(
                Instant::now() < end,
                "what is left out is not counted; {told} lines were told"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn classes_that_nobody_has_leave_those_that_are_real_served() {
    in_turn(async {
        let target = Arc::new(Target::new().await);
        let endpoint = target.endpoint();
        let mut attacks = vec![];
        for n in 0..2u64 {
            let (target, connection) = (Arc::clone(&target), target.connect(&endpoint).await);
            attacks.push(tokio::spawn(async move {
                // Every cut point with every budget, one after the other.
                for at in (n..).step_by(2) {
                    let point = CutPoint((at % u64::from(target.info.last().0)) as u16);
                    let cut = target.info.cut(point).expect("a cut point");
                    let header = InferHeader {
                        model: target.info.id,
                        partition_point: point,
                        dtypes: cut.tensors.iter().map(|_| WireType::F16).collect(),
                        coded: false,
                        time_left: Nanos::from_millis(1 + (at * 7919) % 4000),
                        trace: TraceContext::new(u128::from(rand()), rand()),
                    };
                    let payload = Bytes::from(vec![0; cut.bytes_sent(DType::F16)]);
                    let asked = ClientRequest::Infer(header);
                    let call = connection.call::<_, ClientReply>(
                        &asked,
                        payload,
                        limits(),
                        Duration::from_millis(40),
                    );
                    let _refused = call.await;
                }
            }));
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        target.beside("classes that nobody has").await;
        attacks.iter().for_each(tokio::task::JoinHandle::abort);
        let plan = target.site.ask(target.site.planner_http, "/v1/plan");
        let partitions = plan["plan"]["partitions"].as_array().map_or(0, Vec::len);
        assert!(partitions > 0, "what can be served is: {plan}");
    });
}

#[test]
fn connections_without_end_make_place_for_those_who_ask() {
    in_turn(async {
        let target = Target::new().await;
        let mut kept = vec![];
        for _ in 0..8 {
            let endpoint = target.endpoint();
            for _ in 0..450 {
                kept.push(target.connect(&endpoint).await);
            }
        }
        target.beside("3,600 connections that ask nothing").await;
        let closed = kept.iter().filter(|c| c.is_closed()).count();
        assert!(closed > 0, "some made place for others");
    });
}

#[test]
fn tokens_that_nobody_signed_cost_those_who_show_them() {
    in_turn(async {
        let target = Arc::new(Target::new().await);
        let endpoint = target.endpoint();
        let mut attacks = vec![];
        for n in 0..16 {
            let connection = target.connect(&endpoint).await;
            attacks.push(tokio::spawn(async move {
                for i in 0u64.. {
                    let token = format!(
                        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.{}",
                        format!("{n:02}{i:020}").repeat(4)
                    );
                    let shown = ClientRequest::Present { token };
                    let call = connection.call::<_, ClientReply>(&shown, Bytes::new(), limits(), BUDGET);
                    let refused = call.await;
                    assert!(
                        !matches!(refused, Ok((ClientReply::Welcome, _))),
                        "nobody signed it"
                    );
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        target.beside("tokens that nobody signed").await;
        assert!(
            attacks.iter().all(|attack| !attack.is_finished()),
            "an attack ended by itself"
        );
        attacks.iter().for_each(tokio::task::JoinHandle::abort);
    });
}

/// A call over HTTP for a request that takes long, on a socket of its own.
fn long_call(target: &Target) -> TcpStream {
    let mut socket = TcpStream::connect(target.site.http).expect("the router takes sockets");
    socket
        .write_all(&long_request(target, 20_000))
        .expect("a call is taken");
    socket
}

/// A call for a request that takes long.
fn long_request(target: &Target, budget_ms: u32) -> Vec<u8> {
    let point = target.info.last().0 / 2;
    let spec = &target.info.cuts[usize::from(point)].tensors[0];
    let mut shape = vec![1];
    shape.extend(&spec.shape);
    let head = serde_json::json!({
        "inputs": [{ "name": spec.name, "shape": shape, "datatype": "FP32",
            "parameters": { "binary_data_size": 4 * spec.elements } }],
        "parameters": { "budget_ms": budget_ms, "partition_point": point },
    });
    let (head, body) = (head.to_string(), vec![0; 4 * spec.elements]);
    let start = format!(
        "POST /v2/models/efficientnet-lite0/infer HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\
         Inference-Header-Content-Length: {}\r\n\r\n{head}",
        head.len() + body.len(),
        head.len()
    );
    [start.into_bytes(), body].concat()
}

#[test]
fn callers_who_read_nothing_and_go_away_hold_no_places() {
    in_turn(async {
        let target = Target::new().await;
        let under_way = || metric(&target, "graft_router_in_flight", "");
        // Answers of some kilobytes, as many as fill what lies between here and there more or less, then a call and the end.
        let filling = format!("GET /v2/{} HTTP/1.1\r\nHost: r\r\n\r\n", "x".repeat(6_000));
        let call = long_request(&target, 2_000);
        let sockets = tokio::task::block_in_place(|| {
            let socket = |n: usize| {
                let own = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                own.set_recv_buffer_size(4096)?;
                own.connect(&target.site.http.into())?;
                let mut socket = TcpStream::from(own);
                socket.set_write_timeout(Some(Duration::from_millis(300)))?;
                let sent = socket.write_all(filling.repeat(1 + n * n / 8).as_bytes());
                let sent = sent.and_then(|()| socket.write_all(&call));
                socket.shutdown(Shutdown::Write)?;
                std::io::Result::Ok((socket, sent.is_ok()))
            };
            (0..60).map(socket).collect::<std::io::Result<Vec<_>>>()
        });
        let sockets = sockets.expect("the router takes sockets");
        let whole = sockets.iter().filter(|(_, whole)| *whole).count();
        println!("{whole} of {} calls went in whole", sockets.len());
        target.beside("callers who read nothing").await;
        until("no place is held", Duration::from_secs(12), || under_way() <= 2.0);
        drop(sockets);
    });
}

#[test]
fn calls_that_are_given_up_are_not_run_and_are_counted_as_such() {
    in_turn(async {
        let target = Target::new().await;
        let counted = |status: &str| {
            metric(
                &target,
                "graft_router_requests_total",
                &format!("status=\"{status}\""),
            )
        };
        let before = counted("cancelled");
        // More than can be run at once, so that most wait.
        let calls: Vec<TcpStream> = (0..40).map(|_| long_call(&target)).collect();
        let under_way = || metric(&target, "graft_router_in_flight", "");
        until("they are under way", PATIENCE, || under_way() >= 20.0);
        for (n, call) in calls.iter().enumerate() {
            // Half of them say that nothing more comes, and still listen; the others are gone.
            let how = if n % 2 == 0 {
                Shutdown::Write
            } else {
                Shutdown::Both
            };
            call.shutdown(how).expect("a socket can be shut");
        }
        until("they are given up", Duration::from_secs(2), || under_way() <= 2.0);
        let cancelled = counted("cancelled") - before;
        assert!(cancelled >= 20.0, "{cancelled} of 40 are counted as given up");
        target.beside("calls that were given up").await;
    });
}
