//! Three processes: served, killed, restarted, ended.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use graft_integration_tests::{Program, Site, free_tcp_port, free_udp_port, http, models, until};
use graft_model::SplitMix;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn label(answer: &Value) -> &str {
    answer["top"][0]["label"].as_str().unwrap_or_default()
}

#[test]
fn a_site_serves_and_survives_the_loss_of_each_part() {
    let site = Site::new();
    let planner = site.start("planner");
    let worker = site.start("worker");
    let router = site.start("router");
    until("the router is ready", PATIENCE, || site.is_ready(site.http));

    // Served, with the right label.
    let first = site.until_served(PATIENCE);
    assert_eq!(label(&first), "espresso", "{first}");
    let epoch = first["epoch"].as_u64().expect("a plan served it");

    // The worker dies: clients get local answers, HTTP clients a clear status.
    worker.kill();
    let lost = site.infer(&["--partition-point", "0", "--slo-ms", "8000"]);
    assert_eq!(label(&lost), "espresso", "{lost}");
    assert!(
        lost["local"]
            .as_str()
            .is_some_and(|why| why.contains("refused") || why.contains("no reply")),
        "{lost}"
    );
    let (status, body) = http::post(
        site.http,
        "/v2/models/efficientnet-lite0/infer",
        &[],
        &infer_body(500),
    )
    .expect("the router lives");
    assert!(
        [502, 503, 504].contains(&status),
        "{status}: {}",
        String::from_utf8_lossy(&body)
    );

    // It restarts: service returns, under a later plan.
    let worker = site.start("worker");
    let again = site.until_served(PATIENCE);
    assert!(
        again["epoch"].as_u64() > Some(epoch),
        "{again} after plan {epoch}"
    );

    // The planner dies: running clients notice nothing.
    planner.kill();
    for _ in 0..3 {
        let alone = site.infer(&["--partition-point", "0", "--slo-ms", "3000"]);
        assert!(alone["local"].is_null(), "{alone}\n{}", site.logs());
    }
    // It restarts: its plans go on from where they were.
    let planner = site.start("planner");
    until("the planner is ready", PATIENCE, || {
        site.is_ready(site.planner_http)
    });
    let after = site.until_served(PATIENCE);
    assert!(
        after["epoch"].as_u64() >= again["epoch"].as_u64(),
        "{after} after {again}"
    );

    // SIGTERM: not ready at once, exit code 0.
    for (name, mut program) in [("router", router), ("worker", worker), ("planner", planner)] {
        program.terminate();
        let status = program
            .wait(Duration::from_secs(15))
            .unwrap_or_else(|| panic!("{name} does not end"));
        assert_eq!(status.code(), Some(0), "{name}\n{}", site.logs());
    }
}

fn infer_body(budget_ms: u64) -> Vec<u8> {
    let data = vec![0.0f32; 3 * 224 * 224];
    json!({
        "parameters": { "budget_ms": budget_ms },
        "inputs": [{ "name": "image", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": data }],
    })
    .to_string()
    .into_bytes()
}

#[test]
fn standard_clients_are_served_and_garbage_disturbs_nobody() {
    let site = Site::new();
    let _planner = site.start("planner");
    let _worker = site.start("worker");
    let _router = site.start("router");
    until("the router is ready", PATIENCE, || site.is_ready(site.http));

    // Health, metadata, metrics.
    assert_eq!(http::get(site.http, "/v2/health/live").map(|r| r.0), Some(200));
    assert_eq!(http::get(site.http, "/v2/health/ready").map(|r| r.0), Some(200));
    let (_, metadata) = http::get(site.http, "/v2/models/efficientnet-lite0").expect("metadata");
    let metadata: Value = serde_json::from_str(&metadata).expect("metadata is JSON");
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, 3, 224, 224]));

    // JSON, and binary tensors of two rows.
    let path = "/v2/models/efficientnet-lite0/infer";
    let (status, body) = http::post(site.http, path, &[], &infer_body(2000)).expect("an answer");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (status, &answer["outputs"][0]["shape"]),
        (200, &json!([1, 1000])),
        "{answer}"
    );

    // What is no number stays none, and is told.
    let body = String::from_utf8(infer_body(2000)).expect("text");
    let spoiled = body.replacen("0.0,", "NaN,", 1);
    assert_ne!(spoiled, body);
    let (status, reply) = http::post(site.http, path, &[], spoiled.as_bytes()).expect("an answer");
    let answer: Value = serde_json::from_slice(&reply).expect("JSON");
    let data = answer["outputs"][0]["data"].as_array().expect("elements");
    assert_eq!((status, data.len()), (200, 1000), "{answer}");
    assert!(data.iter().all(Value::is_null), "{answer}");
    let (_, lives) = http::get(site.http, "/v1/requests?missed=false&limit=1").expect("lives");
    let lives: Value = serde_json::from_str(&lives).expect("JSON");
    assert_eq!(lives[0]["not_finite"], 1000, "{lives}");

    let bytes = vec![0u8; 2 * 3 * 224 * 224 * 4];
    let header = json!({
        "id": "two",
        "inputs": [{ "name": "image", "shape": [2, 3, 224, 224], "datatype": "FP32",
                     "parameters": { "binary_data_size": bytes.len() } }],
        "outputs": [{ "name": "logits", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let mut binary = header.clone().into_bytes();
    binary.extend(bytes);
    let length = format!("Inference-Header-Content-Length: {}", header.len());
    let (status, reply) = http::post(site.http, path, &[&length], &binary).expect("an answer");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&reply));
    assert!(
        reply.len() > 2 * 1000 * 4 && reply.starts_with(b"{"),
        "{} bytes",
        reply.len()
    );

    // Wrong requests are told what is wrong.
    for (wrong, want) in [
        (b"{".to_vec(), 400),
        (json!({ "inputs": [] }).to_string().into_bytes(), 400),
        (
            json!({ "inputs": [{ "name": "x", "shape": [1], "datatype": "FP32", "data": [1] }] })
                .to_string()
                .into_bytes(),
            400,
        ),
        (
            json!({ "parameters": { "budget_ms": -1 }, "inputs": [] })
                .to_string()
                .into_bytes(),
            400,
        ),
    ] {
        let (status, body) = http::post(site.http, path, &[], &wrong).expect("an answer");
        assert_eq!(status, want, "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(
        http::post(site.http, "/v2/models/nothing/infer", &[], b"{}").map(|r| r.0),
        Some(404)
    );

    // Garbage on both ports.
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut noise = SplitMix(1);
    for i in 0..2000usize {
        let datagram: Vec<u8> = (0..(i % 1400)).map(|_| noise.byte()).collect();
        udp.send_to(&datagram, site.quic)
            .expect("loopback takes datagrams");
    }
    for garbage in [
        &b"\x00\xff\x16\x03\x01"[..],
        b"GET",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(site.http).expect("the router lives");
        stream.write_all(garbage).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        let mut reply = vec![];
        if stream.read_to_end(&mut reply).is_ok() && !reply.is_empty() {
            assert!(
                reply.starts_with(b"HTTP/1.1 4"),
                "{}",
                String::from_utf8_lossy(&reply)
            );
        }
    }
    let served = site.until_served(PATIENCE);
    assert_eq!(label(&served), "espresso");
    let (_, metrics) = http::get(site.http, "/metrics").expect("metrics");
    assert!(
        metrics.contains("graft_router_request_seconds_bucket"),
        "{metrics}"
    );
    assert!(metrics.contains("status=\"ok\""), "{metrics}");
}

#[test]
fn a_small_site_runs_in_one_process_and_keeps_its_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let (quic, address) = (free_udp_port(), free_tcp_port());
    let file = |name: &str| folder.path().join(name);
    let config = format!(
        "models = {:?}\nstate = {:?}\nlisten = \"{quic}\"\nhttp = \"{address}\"\nbatches = [1]\n",
        models(),
        file("state")
    );
    std::fs::write(file("up.toml"), config).expect("written");
    let mut authority = None;
    for _ in 0..2 {
        let mut up = Program::start_with("graft", &["up"], &file("up.toml"), &file("up.log"));
        until("the site is ready", PATIENCE, || {
            http::get(address, "/readyz").is_some_and(|r| r.0 == 200)
        });
        let path = "/v2/models/efficientnet-lite0/infer";
        let (status, body) = http::post(address, path, &[], &infer_body(3000)).expect("an answer");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let certificate = std::fs::read(file("state/ca.pem")).expect("an authority");
        assert_eq!(authority.get_or_insert(certificate.clone()), &certificate);
        up.terminate();
        let status = up.wait(Duration::from_secs(15)).expect("it ends");
        let log = std::fs::read_to_string(file("up.log")).unwrap_or_default();
        assert_eq!(status.code(), Some(0), "{log}");
    }
}
