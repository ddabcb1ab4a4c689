//! Who is who: clients with tokens, parts with names, certificates that are renewed, administration.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graft_integration_tests::{
    OneHost, Site, emulated_profile, free_tcp_port, free_udp_port, graft, http, models, until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MODEL: &str = "efficientnet-lite0";

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// Status and body of a request with these header lines and no body.
fn ask(address: SocketAddr, line: &str, headers: &[&str]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time-out");
    let head = format!(
        "{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{}\r\n\r\n",
        headers.join("\r\n")
    );
    stream.write_all(head.as_bytes()).expect("a request is sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply comes");
    let status = reply.get(9..12).and_then(|s| s.parse().ok());
    let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.unwrap_or_default())
}

/// Issues a token, into a file.
fn token(site: &OneHost, name: &str, arguments: &[&str]) -> PathBuf {
    let state = text(site.file("state"));
    let issued = graft([&["ca", "token", "--dir", &state, "--client", name], arguments].concat());
    assert!(issued.status.success(), "{issued:?}");
    let file = site.file(&format!("{name}.token"));
    std::fs::write(&file, &issued.stdout).expect("a token");
    file
}

#[test]
fn a_router_that_wants_tokens_answers_nobody_else_and_holds_each_to_what_his_says() {
    let site = OneHost::with_models(&models(), "clients = \"token\"\n", &[]);
    let infer = |token: Option<&Path>| {
        let image = text(models().join(MODEL).join("espresso.png"));
        let mut arguments = [
            "infer",
            "--json",
            "--require-server",
            "--partition-point",
            "0",
            "--slo-ms",
            "5000",
        ]
        .map(str::to_owned)
        .to_vec();
        let all = [
            ("--router", site.quic.to_string()),
            ("--ca", text(site.file("state/ca.pem"))),
            ("--model", text(models().join(MODEL))),
            ("--image", image),
        ];
        arguments.extend(all.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        if let Some(token) = token {
            arguments.extend(["--token".to_owned(), text(token.to_owned())]);
        }
        let ran = graft(arguments);
        (
            ran.status.code(),
            String::from_utf8_lossy(&ran.stderr).into_owned(),
        )
    };
    let (good, other) = (
        token(&site, "app", &[]),
        token(&site, "other", &["--model", "another"]),
    );
    assert_eq!(infer(Some(&good)), (Some(0), String::new()));
    let (code, why) = infer(None);
    assert!(
        code == Some(1) && why.contains("unauthenticated"),
        "{code:?} {why}"
    );
    let (code, why) = infer(Some(&other));
    assert!(code == Some(1) && why.contains("not for model"), "{code:?} {why}");
    let forged = site.file("forged.token");
    let mut bytes = std::fs::read(&good).expect("a token");
    bytes[60] ^= 1;
    std::fs::write(&forged, bytes).expect("a token");
    let (code, why) = infer(Some(&forged));
    assert!(code == Some(1) && why.contains("not taken"), "{code:?} {why}");

    // The same over HTTP; what is refused is counted, and can be explained.
    let path = format!("POST /v2/models/{MODEL}/infer");
    let parent = "traceparent: 00-0000000000000000000000000000a001-00f067aa0ba902b7-01";
    let (status, body) = ask(site.http, &path, &["Host: a", parent]);
    assert_eq!(status, 401, "{body}");
    let read = |file: &Path| std::fs::read_to_string(file).expect("a token").trim().to_owned();
    let shown = |file: &Path| format!("Authorization: Bearer {}", read(file));
    assert_eq!(ask(site.http, &path, &["Host: a", &shown(&forged)]).0, 401);
    // With a token it is the empty body that is wrong.
    let (status, body) = ask(site.http, &path, &["Host: a", &shown(&good)]);
    assert_eq!(status, 400, "{body}");
    let (_, metrics) = ask(site.http, "GET /metrics", &["Host: 127.0.0.1"]);
    let counted = metrics
        .lines()
        .any(|l| l.starts_with("graft_router_requests_total") && l.contains("unauthenticated"));
    assert!(counted, "{metrics}");
    let told = graft([
        "explain",
        "--router",
        &site.http.to_string(),
        "0000000000000000000000000000a001",
    ]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("unauthenticated"), "{told}");

    // Ten a second in the mean, and a burst of a few.
    let slow = token(&site, "slow", &["--rps", "2"]);
    let zeros = vec![0u8; 4 * 224 * 224 * 3];
    let metadata = format!("GET /v2/models/{MODEL}");
    assert_eq!(ask(site.http, &metadata, &["Host: a"]).0, 401);
    assert_eq!(ask(site.http, &metadata, &["Host: a", &shown(&other)]).0, 403);
    assert_eq!(ask(site.http, "GET /v2/models/nobody", &["Host: a"]).0, 401);
    let input = &ask(site.http, &metadata, &["Host: a", &shown(&good)]).1;
    let input: serde_json::Value = serde_json::from_str(input).expect("JSON");
    let mut shape = input["inputs"][0]["shape"].as_array().expect("a shape").clone();
    shape[0] = 1.into();
    let head = serde_json::json!({"inputs": [{"name": input["inputs"][0]["name"], "shape": shape, "datatype": "FP32",
        "parameters": {"binary_data_size": zeros.len()}}], "parameters": {"budget_ms": 5000}});
    let head = head.to_string();
    let body = [head.as_bytes(), &zeros].concat();
    let length = format!("Inference-Header-Content-Length: {}", head.len());
    let statuses = [(); 6].map(|()| {
        let path = format!("/v2/models/{MODEL}/infer");
        http::post(site.http, &path, &[&length, &shown(&slow)], &body)
            .expect("an answer")
            .0
    });
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn administration_has_an_address_of_its_own_and_is_not_for_pages_of_others() {
    let admin = free_tcp_port();
    let site = OneHost::with_models(&models(), &format!("admin = \"{admin}\"\n"), &[]);
    for path in ["/metrics", "/v1/requests"] {
        assert_eq!(http::get(site.http, path).expect("it answers").0, 404, "{path}");
        assert_eq!(
            ask(admin, &format!("GET {path}"), &["Host: 127.0.0.1"]).0,
            200,
            "{path}"
        );
        // A name of somebody's that leads here.
        assert_eq!(
            ask(admin, &format!("GET {path}"), &["Host: evil.example"]).0,
            403,
            "{path}"
        );
    }
    for at in [site.http, admin] {
        assert_eq!(http::get(at, "/healthz").expect("it answers").0, 200);
        assert_eq!(http::get(at, "/readyz").expect("it answers").0, 200);
    }
    let path = format!("POST /v2/models/{MODEL}/infer");
    let (status, body) = ask(
        site.http,
        &path,
        &["Host: 127.0.0.1:8000", "Origin: http://evil.example"],
    );
    assert_eq!(status, 403, "{body}");
}

#[test]
fn administration_that_others_reach_asks_for_a_token() {
    let site = Site::emulated(1, &emulated_profile(), 1.0);
    let (config, token) = (site.file("planner.toml"), site.file("admin.txt"));
    let own = std::fs::read_to_string(&config).expect("a configuration");
    let admin = free_tcp_port();
    let open = own.replace("[tls]", &format!("admin = \"0.0.0.0:{}\"\n[tls]", admin.port()));
    std::fs::write(&config, &open).expect("a configuration");
    let mut refused = site.start("planner");
    assert_eq!(refused.wait(PATIENCE).and_then(|s| s.code()), Some(2));
    assert!(site.logs().contains("admin_token"), "{}", site.logs());

    std::fs::write(&token, "a token of some length\n").expect("a token");
    let guarded = open.replace("[tls]", &format!("admin_token = \"{}\"\n[tls]", token.display()));
    std::fs::write(&config, guarded).expect("a configuration");
    let _planner = site.start("planner");
    until("administration answers", PATIENCE, || {
        http::get(admin, "/healthz").is_some()
    });
    let shown = "Authorization: Bearer a token of some length";
    let asked = |line: &str, headers: &[&str]| ask(admin, line, headers).0;
    assert_eq!(asked("GET /metrics", &["Host: a"]), 401);
    assert_eq!(
        asked(
            "POST /v1/plan",
            &["Host: a", "Authorization: Bearer a token of some lengt"]
        ),
        401
    );
    assert_eq!(asked("GET /metrics", &["Host: a", shown]), 200);
    assert_eq!(
        asked(
            "POST /v1/plan",
            &["Host: a", shown, "Origin: http://evil.example"]
        ),
        403
    );
    assert_eq!(asked("POST /v1/plan", &["Host: a", shown]), 202);
    let (at, token) = (admin.to_string(), text(token));
    let top = |more: &[&str]| {
        graft([&["top", "--once", "--planner", &at], more].concat())
            .status
            .code()
    };
    assert_eq!((top(&[]), top(&["--admin-token", &token])), (Some(2), Some(0)));
}

#[test]
fn a_part_can_t_take_another_s_name_or_address() {
    let site = Site::emulated(2, &emulated_profile(), 1.0);
    let _programs = ["planner", "worker"].map(|part| site.start(part));
    let joined = |name: &str| {
        let told = http::get(site.planner_http, "/v1/status")
            .map(|(_, body)| body)
            .unwrap_or_default();
        told.contains(&format!("\"{name}\""))
    };
    until("the first has joined", PATIENCE, || joined("worker-1"));
    // Another worker of the same name, which is there and alive.
    let config = site.file("worker-2.toml");
    let own = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, own.replace("\"worker-2\"", "\"worker-1\"")).expect("a configuration");
    let second = site.start("worker-2");
    let log = || std::fs::read_to_string(site.file("worker-2.log")).unwrap_or_default();
    until("the second is refused", PATIENCE, || {
        log().contains("names are unique")
    });
    std::thread::sleep(Duration::from_secs(3));
    let told = log().matches("names are unique").count();
    assert_eq!(told, 1, "{}", log());
    let first = std::fs::read_to_string(site.file("worker.log")).unwrap_or_default();
    assert!(!first.contains("let go") && joined("worker-1"), "{first}");
    second.kill();

    // A certificate that is bound to a name allows no other.
    let dir = text(site.file(""));
    let issued = graft([
        "ca", "issue", "--role", "worker", "--part", "worker-9", "--dir", &dir,
    ]);
    assert!(issued.status.success(), "{issued:?}");
    let bound = |name: &str| {
        let own = own
            .replace("/worker.pem", "/worker-9.pem")
            .replace("/worker.key", "/worker-9.key");
        std::fs::write(&config, own.replace("\"worker-2\"", &format!("\"{name}\"")))
            .expect("a configuration");
        site.start("worker-2")
    };
    let wrong = bound("worker-3");
    until("its name is refused", PATIENCE, || {
        log().contains("bound to another name")
    });
    wrong.kill();
    let _right = bound("worker-9");
    until("its own name is taken", PATIENCE, || joined("worker-9"));
    // The same address under another name.
    let (listen, taken) = (
        free_udp_port(),
        own.lines().find(|l| l.starts_with("listen")).expect("an address"),
    );
    let address = taken.split('"').nth(1).expect("an address");
    let third = own
        .replace(
            taken,
            &format!("listen = \"{listen}\"\nadvertise = \"{address}\""),
        )
        .replace("worker-2-state", "worker-4-state")
        .replace("\"worker-2\"", "\"worker-4\"");
    let http_line = third
        .lines()
        .find(|l| l.starts_with("http"))
        .expect("an address")
        .to_owned();
    let third = third.replace(&http_line, &format!("http = \"{}\"", free_tcp_port()));
    std::fs::write(site.file("worker-4.toml"), third).expect("a configuration");
    let _third = site.start("worker-4");
    let log = || std::fs::read_to_string(site.file("worker-4.log")).unwrap_or_default();
    until("its address is refused", PATIENCE, || log().contains("address"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!joined("worker-4"), "{}", log());
}

#[test]
fn certificates_are_taken_up_when_they_are_renewed() {
    let site = Site::emulated(1, &emulated_profile(), 1.0);
    let _programs = ["planner", "worker", "router"].map(|part| site.start(part));
    until("the router is ready", PATIENCE, || site.is_ready(site.http));
    let told = |at: SocketAddr| {
        let (_, metrics) = http::get(at, "/metrics").expect("metrics");
        metrics
            .lines()
            .any(|l| l.starts_with("graft_certificate_not_after_seconds"))
    };
    assert!(told(site.http) && told(site.planner_http) && told(site.worker_http));
    let dir = text(site.file(""));
    // A key that does not belong to it changes nothing, and is told.
    let issued = graft([
        "ca",
        "issue",
        "--role",
        "router",
        "--name",
        "new",
        "--san",
        "serve.example",
        "--dir",
        &dir,
    ]);
    assert!(issued.status.success(), "{issued:?}");
    std::fs::copy(site.file("new.pem"), site.file("router.pem")).expect("a certificate");
    let log = || std::fs::read_to_string(site.file("router.log")).unwrap_or_default();
    until("it says that they don't fit", PATIENCE, || {
        log().contains("not the key of")
    });
    let named = ["--server-name", "serve.example"];
    assert_eq!(site.infer(&named)["reachable"], false);
    std::fs::copy(site.file("new.key"), site.file("router.key")).expect("a key");
    until("it is taken up", PATIENCE, || log().contains("was renewed"));
    assert_eq!(site.infer(&named)["reachable"], true, "{}", site.logs());
}

#[test]
fn who_can_t_reach_a_router_is_told_why() {
    let site = Site::emulated(1, &emulated_profile(), 1.0);
    let _router = site.start("router");
    let other = tempfile::tempdir().expect("a folder");
    let dir = other.path().to_string_lossy().into_owned();
    assert!(graft(["ca", "init", "--dir", &dir]).status.success());
    let model = models().join(MODEL);
    let why = |router: SocketAddr, ca: PathBuf, name: &str| {
        let image = text(model.join("espresso.png"));
        let (router, ca, model) = (router.to_string(), text(ca), text(model.clone()));
        let ran = graft([
            "infer",
            "--require-server",
            "--router",
            &router,
            "--ca",
            &ca,
            "--server-name",
            name,
            "--model",
            &model,
            "--image",
            &image,
        ]);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    let (name, ca) = ("router.graft.internal", site.file("ca.pem"));
    let told = |why: &str, words: &str| assert!(why.contains(words), "{why}");
    until("the router listens", PATIENCE, || {
        http::get(site.http, "/healthz").is_some()
    });
    told(
        &why(site.quic, ca.clone(), "serve.example"),
        "does not carry the name serve.example",
    );
    told(
        &why(site.quic, other.path().join("ca.pem"), name),
        "another authority",
    );
    told(&why(free_udp_port(), ca, name), "nobody answers over UDP");
}

#[test]
fn a_certificate_that_is_over_is_told_once_a_minute() {
    let site = Site::emulated(1, &emulated_profile(), 1.0);
    let dir = text(site.file(""));
    for file in ["worker.pem", "worker.key"] {
        std::fs::remove_file(site.file(file)).expect("a file");
    }
    let issued = graft([
        "ca", "issue", "--role", "worker", "--days", "0.00002", "--dir", &dir,
    ]);
    assert!(issued.status.success(), "{issued:?}");
    std::thread::sleep(Duration::from_secs(3));
    let _programs = ["planner", "worker"].map(|part| site.start(part));
    let log = || std::fs::read_to_string(site.file("worker.log")).unwrap_or_default();
    until("the worker says that its certificate is over", PATIENCE, || {
        log().contains("the certificate is over")
    });
    std::thread::sleep(Duration::from_secs(6));
    let lines = |words: &str| log().lines().filter(|l| l.contains(words)).count();
    assert_eq!(lines("the certificate is over"), 1, "{}", log());
    let connecting = lines("connections end at once") + lines("no connection yet") + lines("connection lost");
    assert!((1..=2).contains(&connecting), "{}", log());
    assert!(lines("joining the planner failed") <= 1, "{}", log());
    let (_, why) = http::get(site.worker_http, "/readyz").expect("the worker lives");
    assert!(why.contains("certificate expired"), "{why}");
    // Another is taken up, and all is well.
    for file in ["worker.pem", "worker.key"] {
        std::fs::remove_file(site.file(file)).expect("a file");
    }
    assert!(
        graft(["ca", "issue", "--role", "worker", "--dir", &dir])
            .status
            .success()
    );
    until("the worker joins", PATIENCE, || site.is_ready(site.worker_http));
}
