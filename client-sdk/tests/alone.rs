//! A phone without a router: everything runs here, in time, and the result says so. One that knows several loses nothing.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_client::{
    Device, Emulation, LocalReason, ModelHere, Routers, Session, SessionError, SessionOptions, Sizes,
};
use graft_files::CatalogEntry;
use graft_model::{Batch, CutPoint, DType, Elements, Manifest, Model, ReadOptions, Tensor, samples};
use graft_plan::Epoch;
use graft_transport::{
    Authority, ClientAuth, Connection, Endpoint, EndpointOptions, Identity, Protocol, Role,
};
use graft_wire::{AnswerHeader, ClientReply, ClientRequest, Description, Limits, Timing, WireType};

fn device_and_model() -> (Arc<Device>, Arc<ModelHere>) {
    let bytes = samples::residual_cnn();
    let model = Model::parse(Path::new("residual.onnx"), &bytes, &ReadOptions::default()).unwrap();
    let entry = CatalogEntry {
        manifest: Manifest::for_file(Path::new("residual.onnx")),
        folder: ".".into(),
        info: Arc::clone(model.info()),
        labels: Arc::default(),
    };
    let device = Arc::new(Device::cpu(None).unwrap());
    let here = device.load(entry, &model).unwrap();
    (device, Arc::new(here))
}

/// A router that takes datagrams and never answers. The socket lives as long as the test.
fn silent_router() -> (Routers, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let identity = Authority::new().unwrap().issue(Role::Router, &[]).unwrap();
    let endpoint = Endpoint::anonymous_trusting(&identity, EndpointOptions::default()).unwrap();
    let name = Role::Router.server_name();
    let router = Routers::new(endpoint, name, vec![socket.local_addr().unwrap()], None);
    (router, socket)
}

fn options(slo_ms: u64) -> SessionOptions {
    SessionOptions {
        slo: Duration::from_millis(slo_ms),
        ..SessionOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_router_makes_nobody_late() {
    let (device, model) = device_and_model();
    let (router, _socket) = silent_router();
    let input = Batch::pseudo_random(model.entry.info.inputs(), 1, 3);
    let want = device.run_whole(&model.entry.info, input.clone()).unwrap();
    let session = Session::new(model, router, options(400)).unwrap();
    for _ in 0..4 {
        let start = Instant::now();
        let answer = session.infer(input.clone()).await.unwrap();
        assert!(
            answer.in_time && start.elapsed() < Duration::from_millis(400),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(answer.local, Some(LocalReason::Unreachable));
        assert_eq!(answer.outputs, want);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_smallest_size_that_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.onnx"), samples::line()).unwrap();
    let manifest = "name = \"line\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n[input]\nsizes = [[1, 8, 16], [1, 8, 32]]\npad = 0.0\n";
    let place = folder.path().join("model.toml");
    std::fs::write(&place, manifest).unwrap();
    let device = Arc::new(Device::cpu(None).unwrap());
    let (router, _socket) = silent_router();
    let mut sessions = vec![];
    for (entry, model) in CatalogEntry::open_sizes(&place).unwrap() {
        let here = Arc::new(device.load(entry, &model).unwrap());
        sessions.push(Session::new(here, router.clone(), options(2000)).unwrap());
    }
    let infos = sessions
        .iter()
        .map(|s| Arc::clone(&s.entry().info))
        .collect::<Vec<_>>();
    let sizes = Sizes::new(sessions).unwrap();
    let of_width = |width: usize| -> Batch {
        let numbers = (0..8 * width).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::new(1, vec![1, 8, width], Elements::F32(numbers))
            .unwrap()
            .into()
    };
    for (width, size) in [(16, 0), (9, 0), (17, 1), (32, 1)] {
        let given = of_width(width);
        let filled = given
            .padded_to(infos[size].inputs(), |_| Some(0.0))
            .unwrap()
            .unwrap();
        let want = device.run_whole(&infos[size], filled).unwrap();
        let answer = sizes.infer(given).await.unwrap();
        assert_eq!(answer.outputs, want, "{width}");
    }
    let error = sizes.infer(of_width(33)).await.unwrap_err().to_string();
    assert!(
        error.contains("[1, 8, 16]") && error.contains("[1, 8, 32]"),
        "{error}"
    );
}

/// A router that answers probes and says what it needs, and never answers an inference.
fn mute_router(cuts: usize) -> (Routers, Endpoint) {
    let identity = Authority::new().unwrap().issue(Role::Router, &[]).unwrap();
    let server = router(&identity, cuts, None);
    let endpoint = Endpoint::anonymous_trusting(&identity, EndpointOptions::default()).unwrap();
    let name = Role::Router.server_name();
    let routers = Routers::new(endpoint, name, vec![server.local_addr().unwrap()], None);
    (routers, server)
}

/// A router that answers probes, says what it needs, and answers inferences so; or never.
fn router(identity: &Identity, cuts: usize, answered: Option<Bytes>) -> Endpoint {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = EndpointOptions::default();
    let server = Endpoint::server(any, identity, Protocol::Client, ClientAuth::None, options).unwrap();
    let mut server_ms = vec![1.0; cuts];
    server_ms[cuts - 1] = 0.0;
    let description = Description {
        name: "residual".to_owned(),
        server_ms,
        price: vec![],
        wire: vec![DType::F32],
        emulated: false,
    };
    let json = Bytes::from(serde_json::to_vec(&description).unwrap());
    let listening = server.clone();
    tokio::spawn(async move {
        let serve = move |connection: Connection| {
            let (json, answered) = (json.clone(), answered.clone());
            let answer = move |_, request: ClientRequest, _| {
                let (json, answered) = (json.clone(), answered.clone());
                async move {
                    match request {
                        ClientRequest::Describe { .. } => (ClientReply::Described, json),
                        ClientRequest::Present { .. } => (ClientReply::Welcome, Bytes::new()),
                        ClientRequest::Probe => (ClientReply::Probed, Bytes::new()),
                        ClientRequest::Infer(_) => match answered {
                            None => std::future::pending().await,
                            Some(bytes) => {
                                let header = AnswerHeader {
                                    dtypes: vec![WireType::F32],
                                    epoch: Epoch(1),
                                    timing: Timing::default(),
                                };
                                (ClientReply::Answer(header), bytes)
                            }
                        },
                    }
                }
            };
            tokio::spawn(async move {
                connection
                    .serve(Limits::default(), Duration::from_secs(5), answer)
                    .await
            });
        };
        listening.listen(&[], serve).await;
    });
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_knows_two_routers_loses_nothing_when_one_goes_away_or_dies() {
    let (_, model) = device_and_model();
    let cuts = model.entry.info.cuts.len();
    let identity = Authority::new().unwrap().issue(Role::Router, &[]).unwrap();
    let answer = Bytes::from(vec![0; model.entry.info.outputs().bytes_sent(DType::F32)]);
    let mut servers: Vec<Endpoint> = (0..3)
        .map(|_| router(&identity, cuts, Some(answer.clone())))
        .collect();
    let addresses = servers.iter().map(|s| s.local_addr().unwrap()).collect();
    let endpoint = Endpoint::anonymous_trusting(&identity, EndpointOptions::default()).unwrap();
    let routers = Routers::new(endpoint, Role::Router.server_name(), addresses, None);
    let always = SessionOptions {
        partition_point: Some(CutPoint(0)),
        ..options(2000)
    };
    let session = Session::new(Arc::clone(&model), routers.clone(), always).unwrap();
    assert!(session.prepare().await);
    let input = Batch::pseudo_random(model.entry.info.inputs(), 1, 3);
    let asked = || async {
        for _ in 0..10 {
            let answer = session.infer(input.clone()).await.unwrap();
            assert!(answer.local.is_none(), "{:?}", answer.local);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        routers.current().expect("a connection").peer()
    };
    let first = asked().await;
    let mut leaves = |address| {
        let at = servers.iter().position(|s| s.local_addr().unwrap() == address);
        servers.remove(at.expect("it is one of them"))
    };
    // One says that it goes away, another is gone without a word.
    let leaving = leaves(first);
    leaving.leave();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = asked().await;
    assert_ne!(first, second);
    leaves(second).close("it dies").await;
    let third = asked().await;
    assert!(third != first && third != second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_stops_answering_makes_no_fallback_late() {
    let (_, model) = device_and_model();
    let (router, _server) = mute_router(model.entry.info.cuts.len());
    let input = Batch::pseudo_random(model.entry.info.inputs(), 1, 3);
    let session = Session::new(Arc::clone(&model), router, options(400)).unwrap();
    // A phone that takes 120 ms for all layers: the server is worth asking.
    session.emulate(Some(Emulation {
        slowdown: 120.0 / model.whole_ms(),
        up_mbps: 1000.0,
        down_mbps: 1000.0,
        rtt_ms: 2.0,
    }));
    assert!(session.prepare().await);
    let mut asked = 0;
    for _ in 0..6 {
        let answer = session.infer(input.clone()).await.unwrap();
        asked += u32::from(matches!(answer.local, Some(LocalReason::NoAnswer(_))));
        assert!(answer.in_time, "{:?} {:?}", answer.local, answer.times);
    }
    assert!(asked >= 1, "the router was never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulated_phone_takes_the_time_of_its_kind() {
    let (_, model) = device_and_model();
    let (router, _socket) = silent_router();
    let input = Batch::pseudo_random(model.entry.info.inputs(), 1, 3);
    let slowdown = 60.0 / model.whole_ms();
    let emulation = Emulation {
        slowdown,
        up_mbps: 10.0,
        down_mbps: 10.0,
        rtt_ms: 10.0,
    };
    let session = Session::new(model, router, options(1)).unwrap();
    session.emulate(Some(emulation));
    let answer = session.infer(input).await.unwrap();
    assert!(answer.times.device_ms >= 59.0, "{:?}", answer.times);
    assert!(!answer.in_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_inputs_and_points_are_told() {
    let (_, model) = device_and_model();
    let (router, _socket) = silent_router();
    let beyond = SessionOptions {
        partition_point: Some(CutPoint(999)),
        ..options(100)
    };
    let refused = Session::new(Arc::clone(&model), router.clone(), beyond);
    assert!(matches!(refused, Err(SessionError::NoSuchPoint { .. })));
    let other = Batch::pseudo_random(&model.entry.info.cuts[1], 1, 3);
    let session = Session::new(model, router, options(100)).unwrap();
    assert!(matches!(
        session.infer(other).await,
        Err(SessionError::Input { .. })
    ));
}
