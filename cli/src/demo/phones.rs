//! The simulated phones: real layers, real bytes, stretched time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use graft_client::{Emulation, Inference, ModelHere, Routers, Session, SessionOptions};
use graft_model::{Batch, DType};
use tokio::sync::{Mutex, Semaphore};

use super::Progress;

/// An input with its right answer.
pub(crate) struct Sample {
    pub input: Batch,
    /// The whole model's outputs.
    pub outputs: Batch,
    /// The label that is known to be right.
    pub label: Option<String>,
}

/// A simulated phone.
#[derive(Debug, Clone)]
pub(crate) struct Phone {
    pub id: String,
    pub emulation: Emulation,
    pub slo: Duration,
    pub rate_rps: f64,
    /// Uplink from half-time on, in megabits a second, as when somebody walks into a lift; `None`: it does not change.
    pub later_mbps: Option<f64>,
}

/// Record of what became of one request.
pub(crate) struct Record {
    pub phone: usize,
    /// Time from when it was to be sent until the answer, in milliseconds.
    pub latency_ms: f64,
    pub in_time: bool,
    /// Index of the sample that was its input.
    pub sample: usize,
    pub outcome: Result<Inference, String>,
}

/// Good answers that each phone waits for before its requests count.
const SETTLED: usize = 3;
/// Requests that one phone has open at most; one more is not sent, and counts as failed.
const OPEN: usize = 8;

impl Phone {
    /// Six phones, from fast to slow, on links from fast to slow. `whole_ms`: time of the whole model on this machine.
    pub fn six(whole_ms: f64) -> Vec<Phone> {
        // Name; time of the whole model on the phone, in milliseconds; uplink in megabits a second; round trip, and
        // time asked for, in milliseconds.
        let kinds = [
            ("p0 desk, wifi", 1500.0, 200.0, 4.0, 350.0),
            ("p1 new, 5g", 420.0, 80.0, 12.0, 400.0),
            ("p2 new, lte", 420.0, 24.0, 30.0, 420.0),
            ("p3 mid, lte", 700.0, 14.0, 35.0, 550.0),
            ("p4 mid, 3g", 700.0, 5.0, 50.0, 700.0),
            ("p5 old, wifi", 1100.0, 40.0, 8.0, 450.0),
        ];
        kinds
            .into_iter()
            .enumerate()
            .map(|(i, (id, alone_ms, mbps, rtt_ms, slo_ms))| Phone {
                id: id.to_owned(),
                emulation: Emulation {
                    slowdown: (alone_ms / whole_ms.max(1e-3)).max(1.0),
                    up_mbps: mbps,
                    down_mbps: 2.0 * mbps,
                    rtt_ms,
                },
                slo: Duration::from_secs_f64(slo_ms / 1e3),
                rate_rps: 2.0,
                later_mbps: (i == 1).then_some(25.0),
            })
            .collect()
    }
}

/// All phones with what they share.
pub(crate) struct Fleet {
    pub model: Arc<ModelHere>,
    pub routers: Routers,
    pub samples: Arc<Vec<Sample>>,
}

impl Fleet {
    /// A session for each phone, in their order.
    pub fn sessions(&self, phones: &[Phone]) -> anyhow::Result<Vec<Arc<Session>>> {
        let session = |phone: &Phone| {
            let options = SessionOptions {
                slo: phone.slo,
                // Answers are compared digit by digit.
                wire: Some(DType::F32),
                emulation: Some(phone.emulation),
                ..SessionOptions::default()
            };
            Session::new(Arc::clone(&self.model), self.routers.apart(), options)
        };
        Ok(phones
            .iter()
            .map(session)
            .map(|s| s.map(Arc::new))
            .collect::<Result<_, _>>()?)
    }

    /// Every phone sends until its estimates have settled and a plan serves it (or it has chosen to run alone).
    pub async fn warm_up(
        &self,
        phones: &[Phone],
        sessions: &[Arc<Session>],
        patience: Duration,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        for (phone, session) in phones.iter().zip(sessions) {
            let mut good = 0;
            while good < SETTLED {
                let answer = session.infer(self.samples[0].input.clone()).await?;
                if answer.local.is_none() || answer.partition_point == self.model.entry.info.last() {
                    good += 1;
                    continue;
                }
                anyhow::ensure!(
                    start.elapsed() < patience,
                    "{} is not served: {}",
                    phone.id,
                    answer.local.map_or(String::new(), |why| why.to_string())
                );
            }
        }
        Ok(())
    }

    /// All phones send at their rates for a while, whether answers come or not (open loop).
    pub async fn run(
        &self,
        phones: &[Phone],
        sessions: &[Arc<Session>],
        length: Duration,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Record>> {
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let start = Instant::now() + Duration::from_millis(100);
        let mut senders = vec![];
        for (number, phone) in phones.iter().enumerate() {
            let session = Arc::clone(&sessions[number]);
            let (phone, samples, records) = (phone.clone(), Arc::clone(&self.samples), Arc::clone(&records));
            senders.push(tokio::spawn(async move {
                send(number, &phone, session, start, length, samples, records).await;
            }));
        }
        while start.elapsed() < length {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let records = records.lock().await;
            let served = records
                .iter()
                .filter(|r| matches!(&r.outcome, Ok(i) if i.local.is_none()))
                .count();
            let in_time = records.iter().filter(|r| r.in_time).count();
            let epoch = records
                .iter()
                .rev()
                .find_map(|r| r.outcome.as_ref().ok()?.epoch)
                .unwrap_or_default();
            progress.say(&format!(
                "{} requests answered, {served} by the server, {in_time} in time, plan {epoch}",
                records.len()
            ));
        }
        for sender in senders {
            sender.await?;
        }
        let records = Arc::into_inner(records)
            .map(Mutex::into_inner)
            .unwrap_or_default();
        Ok(records)
    }
}

async fn send(
    number: usize,
    phone: &Phone,
    session: Arc<Session>,
    start: Instant,
    length: Duration,
    samples: Arc<Vec<Sample>>,
    records: Arc<Mutex<Vec<Record>>>,
) {
    let gap = Duration::from_secs_f64(1.0 / phone.rate_rps);
    // Phones start one after the other within a gap, so that they don't keep step.
    let mut at = start + gap.mul_f64(number as f64 / 6.0);
    let open = Arc::new(Semaphore::new(OPEN));
    let mut pending = vec![];
    let mut count = 0;
    while at < start + length {
        tokio::time::sleep_until(at.into()).await;
        if at >= start + length / 2
            && let Some(mbps) = phone.later_mbps
        {
            session.emulate(Some(Emulation {
                up_mbps: mbps,
                down_mbps: 2.0 * mbps,
                ..phone.emulation
            }));
        }
        let sample = count % samples.len();
        count += 1;
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            records.lock().await.push(Record {
                phone: number,
                latency_ms: 0.0,
                in_time: false,
                sample,
                outcome: Err(format!("{OPEN} requests were open already")),
            });
            at += gap;
            continue;
        };
        let (session, samples, records) = (Arc::clone(&session), Arc::clone(&samples), Arc::clone(&records));
        let (intended, slo) = (at, phone.slo);
        pending.push(tokio::spawn(async move {
            let outcome = session
                .infer(samples[sample].input.clone())
                .await
                .map_err(|e| e.to_string());
            let latency = intended.elapsed();
            drop(permit);
            records.lock().await.push(Record {
                phone: number,
                latency_ms: latency.as_secs_f64() * 1e3,
                in_time: outcome.is_ok() && latency <= slo,
                sample,
                outcome,
            });
        }));
        at += gap;
    }
    for request in pending {
        if let Err(error) = request.await {
            tracing::error!(%error, "a request's task died");
        }
    }
}
