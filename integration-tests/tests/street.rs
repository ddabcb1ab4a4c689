//! A phone on the street: slow and lossy ways, changes of the network, black holes, UDP that is blocked. No inference may be lost, and
//! hardly one be late that the phone alone would have had in time.

#[path = "street/relay.rs"]
mod relay;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use graft_client::{Batch, Client, Emulation, Inference, LocalReason, Session, SessionOptions};
use graft_integration_tests::{Site, models};
use relay::{Relay, Way};

const PATIENCE: Duration = Duration::from_secs(90);
/// Inferences of a case.
const INFERENCES: u32 = 50;
/// Time between two of them.
const EVERY: Duration = Duration::from_millis(200);
/// Time asked for.
const SLO: Duration = Duration::from_millis(900);
/// What the phone takes alone, in milliseconds.
const ALONE_MS: f64 = 350.0;
/// Part of the inferences that may be late.
const LATE: f64 = 0.01;

struct Parts {
    site: Site,
    _programs: Vec<graft_integration_tests::Program>,
}

impl Parts {
    fn start() -> Self {
        let site = Site::new();
        let _programs = site.start_all(PATIENCE);
        Parts { site, _programs }
    }

    /// A phone that takes [`ALONE_MS`] for all layers.
    async fn phone(&self, router: SocketAddr) -> (Client, Session) {
        let client = Client::builder()
            .router(router.to_string())
            .authority_file(self.site.file("ca.pem"))
            .build()
            .expect("a client");
        let options = SessionOptions {
            slo: SLO,
            ..SessionOptions::default()
        };
        let model = models().join("efficientnet-lite0");
        let session = client.open(model, options).await.expect("a model");
        let here = session.here_ms();
        session.emulate(Some(Emulation {
            slowdown: ALONE_MS / here,
            up_mbps: 1e6,
            down_mbps: 1e6,
            rtt_ms: 0.0,
        }));
        session.prepare().await;
        (client, session)
    }

    /// Runs inferences open-loop, while something happens, and says what became of them.
    async fn walk(&self, what: &str, way: Way, happens: impl AsyncFnOnce(&Client, &Relay)) -> Vec<Inference> {
        let relay = Relay::new(self.site.quic, way).await;
        let (client, session) = self.phone(relay.address).await;
        let input = Batch::pseudo_random(session.entry().info.inputs(), 1, 3);
        let running = async {
            let (start, mut tasks) = (Instant::now(), vec![]);
            for n in 0..INFERENCES {
                tokio::time::sleep((EVERY * n).saturating_sub(start.elapsed())).await;
                let (session, input) = (session.clone(), input.clone());
                tasks.push(tokio::spawn(async move { session.infer(input).await }));
            }
            let mut ended = vec![];
            for task in tasks {
                ended.push(task.await.expect("no panic").expect("no inference is lost"));
            }
            ended
        };
        let (ended, ()) = tokio::join!(running, happens(&client, &relay));
        let late = ended.iter().filter(|i| !i.in_time).count();
        let there = ended.iter().filter(|i| i.local.is_none()).count();
        let mut total: Vec<f64> = ended.iter().map(|i| i.times.total_ms).collect();
        total.sort_by(f64::total_cmp);
        println!(
            "{what}: {} inferences, {late} late, {there} with the server; median {:.0} ms, longest {:.0} ms",
            ended.len(),
            total[total.len() / 2],
            total[total.len() - 1]
        );
        assert!(
            late as f64 <= LATE * ended.len() as f64,
            "{what}: {late} of {} are late: {:?}",
            ended.len(),
            ended
                .iter()
                .filter(|i| !i.in_time)
                .map(|i| (&i.local, i.times))
                .collect::<Vec<_>>()
        );
        ended
    }
}

const CITY: Way = Way {
    delay: Duration::from_millis(20),
    loss: 0.0,
    mbps: 50.0,
};

fn with_server(ended: &[Inference]) -> usize {
    ended.iter().filter(|i| i.local.is_none()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_on_the_street() {
    let parts = Parts::start();
    let all = INFERENCES as usize;

    let plain = parts.walk("a city's network", CITY, async |_, _| ()).await;
    assert!(with_server(&plain) > all * 9 / 10, "the server is faster");

    let lossy = Way { loss: 0.05, ..CITY };
    let ended = parts.walk("5% of the packets lost", lossy, async |_, _| ()).await;
    // The server is not much faster then, and what few losses hit it most keeps the phone away for a while.
    assert!(with_server(&ended) > all / 10);

    let far = Way {
        delay: Duration::from_millis(100),
        ..CITY
    };
    parts.walk("200 ms there and back", far, async |_, _| ()).await;

    let switching = async |client: &Client, relay: &Relay| {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(1650)).await;
            client.network_changed().expect("a new socket");
        }
        assert!(
            relay.clients.load(Ordering::Relaxed) >= 5,
            "it came through other sockets"
        );
    };
    let ended = parts.walk("five changes of the network", CITY, switching).await;
    assert!(
        with_server(&ended) > all * 9 / 10,
        "requests move to the new network"
    );

    let black = async |_: &Client, relay: &Relay| {
        tokio::time::sleep(Duration::from_secs(3)).await;
        relay.black.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        relay.black.store(false, Ordering::Relaxed);
    };
    let ended = parts.walk("a black hole of 5 s", CITY, black).await;
    let after = ended.iter().rev().take(5).filter(|i| i.local.is_none()).count();
    assert!(after > 0, "the server is found again");

    let blocked = async |_: &Client, relay: &Relay| relay.black.store(true, Ordering::Relaxed);
    let ended = parts.walk("UDP is blocked", CITY, blocked).await;
    let last = &ended[all - 1].local;
    assert!(
        matches!(last, Some(LocalReason::Unreachable | LocalReason::InDoubt)),
        "{last:?}"
    );
}
