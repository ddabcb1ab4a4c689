//! What the scheduler takes for one request (submit, next, finished), with many queued.
//! `cargo bench -p graft-worker-core`

#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::time::Instant;

use graft_model::{CutPoint, SplitMix, StageRange};
use graft_plan::{Chunk, Nanos, Order};
use graft_worker_core::{
    Admission, Limits, PartitionSpec, Request, RequestId, Scheduler, StageIndex, StageSpec,
};

const STAGES: u16 = 8;
const REQUESTS: u64 = 400_000;
const ROUNDS: usize = 5;

fn spec() -> PartitionSpec {
    let stage = StageSpec {
        range: StageRange::new(CutPoint(0), CutPoint(4)).expect("0 < 4"),
        batch: 4,
        runs: [1, 2, 4]
            .map(|b| {
                let chunk = |to| Chunk {
                    range: StageRange::new(CutPoint(to - 1), CutPoint(to)).expect("one segment"),
                    time: Nanos(1000),
                };
                (b, (1..=4).map(chunk).collect())
            })
            .to_vec(),
    };
    PartitionSpec {
        stages: vec![stage; usize::from(STAGES)],
        order: Order::Edf,
        limits: Limits {
            queued_requests: usize::MAX,
            set_aside_batches: 8,
        },
        admission: Admission::On,
    }
}

/// Nanoseconds a request, with `queued` requests waiting all the time.
fn round(queued: u64) -> f64 {
    let mut scheduler = Scheduler::new(spec());
    let mut numbers = SplitMix(1);
    let mut submit = |scheduler: &mut Scheduler, id: u64, now: u64| {
        let request = Request {
            id: RequestId(id),
            key: Nanos(now + 1_000_000 + (numbers.bits() >> 44)),
            latest_start: Nanos::MAX,
        };
        let stage = StageIndex(numbers.below(usize::from(STAGES)) as u16);
        scheduler
            .submit(Nanos(now), stage, request)
            .expect("nothing is refused");
    };
    let (mut id, mut now, mut done) = (0, 0, 0);
    while id < queued {
        submit(&mut scheduler, id, now);
        id += 1;
    }
    let mut dropped = vec![];
    let start = Instant::now();
    while done < REQUESTS {
        if let Some(run) = scheduler.next(Nanos(now), &mut dropped) {
            now += run.expected.0;
            if let Some(graft_worker_core::Finished::Done(finished)) = scheduler.finished() {
                for _ in finished {
                    done += 1;
                    submit(&mut scheduler, id, now);
                    id += 1;
                }
            }
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / done as f64
}

fn main() {
    for (queued, reach) in [(100, 1.0), (10_000, 5.0)] {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| round(queued)).collect();
        times.sort_by(f64::total_cmp);
        let us = times[ROUNDS / 2] / 1e3;
        println!("{queued:>6} queued: {us:.3} µs a request, all its chunks included (to reach: {reach} µs)");
    }
}
