//! A phone without a router: everything runs here, in time, and the result says so.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use graft_client::{
    Device, Emulation, LocalReason, ModelHere, Router, Session, SessionError, SessionOptions,
};
use graft_model::{CatalogEntry, CutPoint, DType, Manifest, Model, ReadOptions, Tensor, samples};
use graft_transport::{Authority, Endpoint, EndpointOptions, Role};

fn device_and_model() -> (Arc<Device>, Arc<ModelHere>) {
    let bytes = samples::residual_cnn();
    let model = Model::parse(Path::new("residual.onnx"), &bytes, &ReadOptions::default()).unwrap();
    let entry = CatalogEntry {
        manifest: Manifest::for_file(Path::new("residual.onnx")),
        folder: ".".into(),
        info: Arc::clone(model.info()),
        labels: Arc::default(),
    };
    let device = Device::cpu(None).unwrap();
    let here = device.load(entry, &model).unwrap();
    (Arc::new(device), Arc::new(here))
}

/// A router that takes datagrams and never answers. The socket lives as long as the test.
fn silent_router() -> (Router, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let identity = Authority::new().unwrap().issue(Role::Router, &[]).unwrap();
    let router = Router {
        address: socket.local_addr().unwrap(),
        name: Role::Router.server_name().to_owned(),
        endpoint: Endpoint::anonymous_trusting(&identity, EndpointOptions::default()).unwrap(),
    };
    (router, socket)
}

fn options(slo_ms: u64) -> SessionOptions {
    SessionOptions {
        take_hints: true,
        slo: Duration::from_millis(slo_ms),
        partition_point: None,
        wire: DType::F32,
        emulation: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_router_makes_nobody_late() {
    let (device, model) = device_and_model();
    let (router, _socket) = silent_router();
    let input = Tensor::pseudo_random(&model.entry.info.cuts[0], 1, 3);
    let want = device.run_whole(&model.entry.info, input.clone()).unwrap();
    let session = Session::new(device, model, router, options(400)).unwrap();
    for _ in 0..4 {
        let start = Instant::now();
        let answer = session.infer(input.clone()).await.unwrap();
        assert!(
            answer.in_time && start.elapsed() < Duration::from_millis(400),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(answer.local, Some(LocalReason::Unreachable));
        assert_eq!(answer.output, want);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulated_phone_takes_the_time_of_its_kind() {
    let (device, model) = device_and_model();
    let (router, _socket) = silent_router();
    let input = Tensor::pseudo_random(&model.entry.info.cuts[0], 1, 3);
    let slowdown = 60.0 / model.head_ms.last().unwrap();
    let emulation = Emulation {
        slowdown,
        up_mbps: 10.0,
        down_mbps: 10.0,
        rtt_ms: 10.0,
    };
    let session = Session::new(device, model, router, options(1)).unwrap();
    session.emulate(Some(emulation));
    let answer = session.infer(input).await.unwrap();
    assert!(answer.times.device_ms >= 59.0, "{:?}", answer.times);
    assert!(!answer.in_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_inputs_and_points_are_told() {
    let (device, model) = device_and_model();
    let (router, _socket) = silent_router();
    let beyond = SessionOptions {
        partition_point: Some(CutPoint(999)),
        ..options(100)
    };
    let refused = Session::new(Arc::clone(&device), Arc::clone(&model), router.clone(), beyond);
    assert!(matches!(refused, Err(SessionError::NoSuchPoint { .. })));
    let other = Tensor::pseudo_random(&model.entry.info.cuts[1], 1, 3);
    let session = Session::new(device, model, router, options(100)).unwrap();
    assert!(matches!(
        session.infer(other).await,
        Err(SessionError::Input { .. })
    ));
}
