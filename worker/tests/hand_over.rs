//! Routes whose stages run on two workers, or on two devices of one: the tensor goes from one to the other, and the answer
//! is that of the whole network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use graft_engine::{EngineKind, EngineOptions, cpu_kind, usable_cores};
use graft_files::Catalog;
use graft_model::{CutPoint, ModelId, ModelInfo};
use graft_plan::{Epoch, Nanos, Order, Partition, Plan, Route, Share, Stage};
use graft_transport::{
    Authority, ClientAuth, Connection, Endpoint, EndpointOptions, Identity, Protocol, Role,
};
use graft_wire::{
    Correction, Join, Limits, RunHeader, StageTimes, Status, ToPlanner, ToWorker, TraceContext, Visit,
    WireType, WorkReply, WorkRequest, WorkerEndpoint, WorkerPlan,
};
use graft_worker::{DeviceSettings, EngineChoice, Settings, Worker};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where the route goes from one worker to the other.
const BETWEEN: CutPoint = CutPoint(20);

fn models() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models"))
}

/// What a planner hears: workers, by name.
type Joined = Arc<Mutex<BTreeMap<String, Connection>>>;

/// Listens as a planner does, and remembers who joins.
fn planner(identity: &Identity) -> (Endpoint, Joined) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = EndpointOptions::default();
    let endpoint =
        Endpoint::server(any, identity, Protocol::Control, ClientAuth::Required, options).expect("a planner");
    let (joined, listening): (Joined, _) = (Joined::default(), endpoint.clone());
    let members = Arc::clone(&joined);
    tokio::spawn(async move {
        listening
            .listen(&[Role::Worker], move |connection| {
                let (members, serving) = (Arc::clone(&members), connection.clone());
                tokio::spawn(async move {
                    let handler = move |message: ToPlanner| {
                        if let ToPlanner::Join(Join::Worker(info)) = message {
                            let mut members = members.lock().expect("a lock");
                            members.insert(info.name, connection.clone());
                        }
                        async { Ok::<(), std::convert::Infallible>(()) }
                    };
                    serving.obey(PATIENCE, handler).await
                });
            })
            .await;
    });
    (endpoint, joined)
}

/// A core of this machine, run by the engine that is always there.
fn core(name: Option<&str>, core: usize) -> DeviceSettings {
    let engine = EngineChoice::Cpu(EngineOptions {
        kind: EngineKind::Rten,
        ..EngineOptions::default()
    });
    DeviceSettings {
        name: name.map(str::to_owned),
        ..DeviceSettings::only(engine, vec![core])
    }
}

async fn worker(
    name: &str,
    devices: Vec<DeviceSettings>,
    authority: &Authority,
    planner: SocketAddr,
    state: &Path,
) -> Worker {
    Worker::start(Settings {
        name: name.to_owned(),
        catalog: Catalog::read(&models()).expect("models"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        advertise: None,
        planner,
        http: None,
        state: state.to_owned(),
        devices,
        batches: vec![1],
        queue_bytes: 1 << 28,
        drain: Duration::from_secs(1),
        identity: authority.issue(Role::Worker, &[]).expect("an identity"),
    })
    .await
    .expect("a worker")
}

/// All layers on one device (route 0), and over both (route 1).
fn plan(model: ModelId, last: CutPoint, devices: [&str; 2]) -> Plan {
    let stage = |id: &str, from, to| Stage {
        id: id.to_owned(),
        model: model.to_string(),
        from,
        to,
        batch: 1,
        rate_rps: 1.0,
        deadline_ms: 2000.0,
    };
    let partition = |id: &str, device: &str, stages: &[&str]| Partition {
        id: id.to_owned(),
        device: device.to_owned(),
        share: Share(1),
        order: Order::Edf,
        quantum_ms: 5.0,
        stages: stages.iter().map(|s| (*s).to_owned()).collect(),
    };
    let route = |fragment: &str, stages: &[&str]| Route {
        fragment: fragment.to_owned(),
        stages: stages.iter().map(|s| (*s).to_owned()).collect(),
    };
    Plan {
        stages: vec![
            stage("whole", CutPoint(0), last),
            stage("head", CutPoint(0), BETWEEN),
            stage("tail", BETWEEN, last),
        ],
        partitions: vec![
            partition("p0", devices[0], &["whole", "head"]),
            partition("p1", devices[1], &["tail"]),
        ],
        routes: vec![route("alone", &["whole"]), route("over", &["head", "tail"])],
        total_share: 2,
        ..Plan::empty("by hand", Epoch(1))
    }
}

/// A plan, as a worker is told it.
fn work(plan: Plan, hosts: &[(&str, &Worker)], names: [&str; 2], corrections: Vec<Correction>) -> WorkerPlan {
    let stages = plan.stages.iter();
    let alone = stages.map(|s| (s.id.clone(), Nanos::from_millis(1))).collect();
    let host = |((device, worker), name): (&(&str, &Worker), &str)| {
        let endpoint = WorkerEndpoint {
            name: name.to_owned(),
            address: worker.address().to_string(),
            chunk: Nanos::ZERO,
        };
        ((*device).to_owned(), endpoint)
    };
    WorkerPlan {
        plan,
        hosts: hosts.iter().zip(names).map(host).collect(),
        corrections,
        times: StageTimes {
            alone,
            hop: Nanos::from_millis(1),
        },
    }
}

/// An input of the model's.
fn input(info: &ModelInfo) -> Bytes {
    let cut = &info.cuts[0];
    let elements = (0..cut.elements()).map(|i| (i % 251) as f32 / 251.0 - 0.5);
    Bytes::from(elements.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}

fn assert_equal(output: &[u8], expected: &[u8]) {
    assert_eq!(output.len(), expected.len());
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let each = bytes.chunks_exact(4);
        each.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    };
    for (a, b) in floats(output).iter().zip(floats(expected)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} instead of {b}");
    }
}

async fn run(router: &Connection, route: u32, tensor: &Bytes, left: Duration) -> (WorkReply, Vec<u8>) {
    let request = WorkRequest::Run(RunHeader {
        epoch: Epoch(1),
        route,
        stage: 0,
        dtypes: vec![WireType::F32],
        coded: false,
        time_left: left.into(),
        trace: TraceContext::new(7, 9),
    });
    router
        .call::<_, WorkReply>(&request, tensor.clone(), Limits::default(), PATIENCE)
        .await
        .expect("a reply")
}

#[test]
fn a_route_over_two_workers_gives_what_the_whole_network_gives() {
    actix::System::new().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new().expect("an authority");
        let planner_identity = authority.issue(Role::Planner, &[]).expect("an identity");
        let (endpoint, joined) = planner(&planner_identity);
        let at = endpoint.local_addr().expect("an address");
        let cores = usable_cores();
        let one = || vec![core(None, cores[0])];
        let first = worker("first", one(), &authority, at, &folder.path().join("first")).await;
        let second = worker("second", one(), &authority, at, &folder.path().join("second")).await;
        let member = |name: &str| joined.lock().expect("a lock").get(name).cloned();
        while member("first").is_none() || member("second").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        let catalog = Catalog::read(&models()).expect("models");
        let info = &catalog.entries()[0].info;
        let correction = Correction {
            kind: format!("{} with rten", cpu_kind()),
            model: info.id,
            batch: 1,
            times: 1.5,
        };
        let names = ["first", "second"];
        let plan = plan(info.id, info.last(), names);
        let work = work(
            plan,
            &[("first", &first), ("second", &second)],
            names,
            vec![correction],
        );
        for name in ["second", "first"] {
            let connection = member(name).expect("it joined");
            let prepare = ToWorker::Prepare(Box::new(work.clone()));
            connection.tell(&prepare, PATIENCE).await.expect("it prepares");
        }

        let identity = authority.issue(Role::Router, &[]).expect("an identity");
        let client = Endpoint::client(&identity, EndpointOptions::default()).expect("a router's end");
        let router = client
            .connect_role(first.address(), Role::Worker, Protocol::Work)
            .await
            .expect("the first worker");
        let tensor = input(info);

        let (whole, expected) = run(&router, 0, &tensor, PATIENCE).await;
        assert!(matches!(whole, WorkReply::Answer(..)), "{whole:?}");
        // The link between the workers comes up by itself.
        let mut over = run(&router, 1, &tensor, PATIENCE).await;
        for _ in 0..100 {
            match &over.0 {
                WorkReply::Refused(refused, _) if refused.status == Status::WorkerLost => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    over = run(&router, 1, &tensor, PATIENCE).await;
                }
                _ => break,
            }
        }
        let (WorkReply::Answer(answer, visits), output) = over else {
            panic!("{:?}", over.0)
        };
        assert_equal(&output, &expected);
        // Both have told where it was, and both have taken time for it.
        let places: Vec<(&str, CutPoint, CutPoint)> = visits
            .iter()
            .map(|v: &Visit| (v.worker.as_str(), v.from, v.to))
            .collect();
        assert_eq!(
            places,
            [("first", CutPoint(0), BETWEEN), ("second", BETWEEN, info.last())]
        );
        assert!(visits[1].entered_ns >= visits[0].done_ns.expect("it was done"));
        assert!(answer.timing.run_ns > 0);

        // What can't be in time is refused before it is handed over.
        let (late, _) = run(&router, 1, &tensor, Duration::from_micros(10)).await;
        assert!(
            matches!(&late, WorkReply::Refused(refused, _) if refused.status == Status::Late),
            "{late:?}"
        );
        // The worker that runs the rest is gone: whoever asks is told, and may ask elsewhere.
        second.stop().await;
        let (lost, _) = run(&router, 1, &tensor, Duration::from_secs(3)).await;
        assert!(
            matches!(&lost, WorkReply::Refused(refused, _)
                if matches!(refused.status, Status::WorkerLost | Status::NotReady | Status::Late)),
            "{lost:?}"
        );
        first.stop().await;
        endpoint.close("the test is over").await;
    });
}

#[test]
fn a_route_over_two_devices_of_a_worker_stays_there() {
    actix::System::new().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new().expect("an authority");
        let planner_identity = authority.issue(Role::Planner, &[]).expect("an identity");
        let (endpoint, joined) = planner(&planner_identity);
        let at = endpoint.local_addr().expect("an address");
        let cores = usable_cores();
        let devices = vec![core(Some("a"), cores[0]), core(Some("b"), cores[cores.len() - 1])];
        let both = worker("both", devices, &authority, at, folder.path()).await;
        let member = || joined.lock().expect("a lock").get("both").cloned();
        while member().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let catalog = Catalog::read(&models()).expect("models");
        let info = &catalog.entries()[0].info;
        let devices = ["both/a", "both/b"];
        let plan = plan(info.id, info.last(), devices);
        let work = work(plan, &devices.map(|d| (d, &both)), ["both", "both"], vec![]);
        let connection = member().expect("it joined");
        let prepare = ToWorker::Prepare(Box::new(work.clone()));
        connection.tell(&prepare, PATIENCE).await.expect("it prepares");

        let identity = authority.issue(Role::Router, &[]).expect("an identity");
        let client = Endpoint::client(&identity, EndpointOptions::default()).expect("a router's end");
        let router = client
            .connect_role(both.address(), Role::Worker, Protocol::Work)
            .await
            .expect("the worker");
        let tensor = input(info);
        let (whole, expected) = run(&router, 0, &tensor, PATIENCE).await;
        assert!(matches!(whole, WorkReply::Answer(..)), "{whole:?}");
        let (WorkReply::Answer(_, visits), output) = run(&router, 1, &tensor, PATIENCE).await else {
            panic!("no answer over both devices");
        };
        assert_equal(&output, &expected);
        let places: Vec<(&str, &str)> = visits
            .iter()
            .map(|v: &Visit| (v.worker.as_str(), v.partition.as_str()))
            .collect();
        assert_eq!(places, [("both", "p0"), ("both", "p1")]);

        // A plan that takes more of a device than there is is refused, and changes nothing.
        let mut more = work;
        more.plan.epoch = Epoch(2);
        more.plan.partitions[0].device = "both/b".to_owned();
        let refused = connection
            .tell(&ToWorker::Prepare(Box::new(more)), PATIENCE)
            .await;
        let why = refused.expect_err("too much of one device").to_string();
        assert!(why.contains("both/b") && why.contains("share of 1"), "{why}");
        let (again, _) = run(&router, 1, &tensor, PATIENCE).await;
        assert!(matches!(again, WorkReply::Answer(..)), "{again:?}");
        both.stop().await;
        endpoint.close("the test is over").await;
    });
}
