//! The router that is attacked, and the client who does no harm.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_files::CatalogEntry;
use graft_integration_tests::{Program, Site, alone, emulated_profile, models, until};
use graft_model::{CutPoint, DType, ModelInfo};
use graft_plan::Nanos;
use graft_transport::{Connection, Endpoint, EndpointOptions, Protocol, Role};
use graft_wire::{ClientReply, ClientRequest, InferHeader, Limits, TraceContext, WireType};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Everything takes so many times as long as on the device that is emulated.
pub(crate) const STRETCH: f64 = 200.0;
/// What the good client's answers may take.
pub(crate) const BUDGET: Duration = Duration::from_millis(600);
/// Time between two of his requests.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
/// Part of his requests that are answered in time beside any attack, at least.
pub(crate) const GOOD: f64 = 0.95;
/// Memory of the router at most, in bytes.
pub(crate) const MEMORY: u64 = 1_400 << 20;

/// A site on an emulated device, with a client's way to it.
pub(crate) struct Target {
    pub site: Site,
    pub router: Program,
    _others: [Program; 2],
    pub info: Arc<ModelInfo>,
}

impl Target {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// After something was done to the site's files.
    pub async fn with(before: impl FnOnce(&Site)) -> Self {
        let site = Site::emulated(1, &emulated_profile(), STRETCH);
        before(&site);
        let others = ["planner", "worker"].map(|part| site.start(part));
        let router = site.start("router");
        until("the router is ready", PATIENCE, || site.is_ready(site.http));
        let manifest = models().join("efficientnet-lite0/model.toml");
        let (entry, _) = CatalogEntry::open(&manifest).expect("the model that comes with Graft");
        let target = Target {
            site,
            router,
            _others: others,
            info: entry.info,
        };
        // The first requests make the planner plan for them.
        let good = target.good();
        let start = Instant::now();
        while good.in_time(Duration::from_secs(1)).await < 1.0 {
            assert!(
                start.elapsed() < PATIENCE,
                "a good client is served\n{}",
                target.site.logs()
            );
        }
        target
    }

    pub async fn connect(&self, endpoint: &Endpoint) -> Connection {
        let to = endpoint.connect(self.site.quic, Role::Router.server_name(), Protocol::Client);
        to.await.expect("the router takes connections")
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::anonymous(&self.site.file("ca.pem"), EndpointOptions::default()).expect("an endpoint")
    }

    /// A request for the second half of the layers.
    pub fn request(&self, budget: Duration) -> (ClientRequest, Bytes) {
        let point = CutPoint(self.info.last().0 / 2);
        let cut = self.info.cut(point).expect("a cut point");
        let header = InferHeader {
            model: self.info.id,
            partition_point: point,
            dtypes: cut.tensors.iter().map(|_| WireType::F32).collect(),
            coded: false,
            time_left: Nanos::from(budget),
            trace: TraceContext::new(u128::from(rand()), rand()),
        };
        let bytes = vec![0; cut.bytes_sent(DType::F32)];
        (ClientRequest::Infer(header), Bytes::from(bytes))
    }

    pub fn good(&self) -> Good<'_> {
        Good {
            target: self,
            endpoint: self.endpoint(),
        }
    }

    /// What a good client gets beside an attack, of all that he asks for; he comes when it is under way.
    pub async fn beside(&self, what: &str) {
        let good = self.good();
        let part = good.in_time(Duration::from_secs(5)).await;
        println!("{what}: {:.1}% in time, {} MB", part * 100.0, self.memory() >> 20);
        assert!(part >= GOOD, "{what}: {part:.3} in time\n{}", self.site.logs());
        assert!(self.memory() <= MEMORY, "{what}: {} bytes", self.memory());
    }

    pub fn memory(&self) -> u64 {
        self.router.memory_bytes().expect("the router runs")
    }
}

/// Runs a test while no other of those that measure does.
pub(crate) fn in_turn(test: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(test);
}

/// Any number; tests that need the same again have none.
pub(crate) fn rand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() | 1
}

/// A client who asks ten times a second.
pub(crate) struct Good<'t> {
    target: &'t Target,
    endpoint: Endpoint,
}

impl Good<'_> {
    /// The part of his requests that are answered in time.
    pub async fn in_time(&self, duration: Duration) -> f64 {
        let Ok(Ok(connection)) = tokio::time::timeout(
            Duration::from_secs(2),
            self.endpoint.connect(
                self.target.site.quic,
                Role::Router.server_name(),
                Protocol::Client,
            ),
        )
        .await
        else {
            return 0.0;
        };
        let (served, mut asked) = (Arc::new(AtomicUsize::new(0)), vec![]);
        let start = Instant::now();
        while start.elapsed() < duration {
            let (request, payload) = self.target.request(BUDGET);
            let (connection, served) = (connection.clone(), Arc::clone(&served));
            let asked_at = start.elapsed();
            asked.push(tokio::spawn(async move {
                let reply = connection
                    .call::<_, ClientReply>(&request, payload, limits(), BUDGET)
                    .await;
                match reply {
                    Ok((ClientReply::Answer(_), _)) => {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok((ClientReply::Refused(refused), _)) => {
                        println!("at {asked_at:.1?} refused: {refused:?}")
                    }
                    Ok((other, _)) => println!("at {asked_at:.1?}: {other:?}"),
                    Err(error) => println!("at {asked_at:.1?} failed: {error}"),
                }
            }));
            tokio::time::sleep(EVERY).await;
        }
        let count = asked.len();
        for request in asked {
            request.await.expect("a request ends");
        }
        served.load(Ordering::Relaxed) as f64 / count as f64
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        payload_bytes: 16 << 20,
    }
}
