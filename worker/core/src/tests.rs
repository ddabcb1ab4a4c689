//! The scheduler against the reference simulation's rules, written down a second time as plainly as possible.

use graft_model::{CutPoint, StageRange};
use graft_plan::{Chunk, Nanos, Order};
use proptest::prelude::*;

use crate::*;

/// A stage of `chunks` chunks; a run of b requests takes `(1 + b) / 2` times `unit` a chunk.
fn stage(batch: u32, chunks: u16, unit: u64) -> StageSpec {
    StageSpec {
        range: StageRange::new(CutPoint(0), CutPoint(chunks)).unwrap(),
        batch,
        runs: [1, 2, 4, 8]
            .map(|b| {
                let time = Nanos(unit * (1 + u64::from(b)) / 2);
                (
                    b,
                    (1..=chunks)
                        .map(|to| Chunk {
                            range: StageRange::new(CutPoint(to - 1), CutPoint(to)).unwrap(),
                            time,
                        })
                        .collect(),
                )
            })
            .to_vec(),
    }
}

fn spec(stages: Vec<StageSpec>, order: Order, admission: Admission) -> PartitionSpec {
    PartitionSpec {
        stages,
        order,
        limits: Limits::default(),
        admission,
    }
}

fn request(id: u64, key: u64) -> Request {
    Request {
        id: RequestId(id),
        key: Nanos(key),
        latest_start: Nanos::MAX,
    }
}

/// One request of a script: when it arrives, at which stage, and what it is.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    at: u64,
    stage: usize,
    request: Request,
}

/// What happened: (time, request, answered).
type Log = Vec<(u64, u64, bool)>;

/// Drives the scheduler through a script in virtual time.
fn drive(spec: PartitionSpec, script: &[Arrival]) -> Log {
    let mut scheduler = Scheduler::new(spec);
    let mut log = vec![];
    let mut arrivals = script.iter().peekable();
    let mut busy_until: Option<u64> = None;
    loop {
        let next_arrival = arrivals.peek().map(|a| a.at);
        let Some(now) = [next_arrival, busy_until].into_iter().flatten().min() else {
            break;
        };
        while let Some(a) = arrivals.next_if(|a| a.at == now) {
            scheduler
                .submit(Nanos(now), StageIndex(a.stage as u16), a.request)
                .unwrap();
        }
        if busy_until == Some(now) {
            busy_until = None;
            if let Some(Finished::Done(done)) = scheduler.finished() {
                log.extend(done.iter().map(|id| (now, id.0, true)));
            }
        }
        let mut dropped = vec![];
        if let Some(run) = scheduler.next(Nanos(now), &mut dropped) {
            busy_until = Some(now + run.expected.0);
        }
        log.extend(dropped.iter().map(|id| (now, id.0, false)));
    }
    assert!(scheduler.is_idle());
    log
}

/// The reference's rules for one partition, as plainly as possible. `keys`: whether it looks at keys (a planted
/// fault where it does not).
fn reference(spec: &PartitionSpec, script: &[Arrival], keys: bool) -> Log {
    struct Aside {
        key: u64,
        stage: usize,
        requests: Vec<u64>,
        chunk: usize,
    }
    let key_of = |r: &Request| if keys { r.key.0 } else { 0 };
    let mut waiting: Vec<(usize, Arrival)> = vec![];
    let mut aside: Vec<Aside> = vec![];
    let mut running: Option<(u64, Aside)> = None;
    let mut log = vec![];
    let mut next = 0;
    let mut turn = spec.stages.len().wrapping_sub(1);
    loop {
        let mut instants: Vec<u64> = script.get(next).map(|a| a.at).into_iter().collect();
        instants.extend(running.as_ref().map(|r| r.0));
        let Some(&now) = instants.iter().min() else { break };
        while next < script.len() && script[next].at == now {
            waiting.push((next, script[next]));
            next += 1;
        }
        if running.as_ref().is_some_and(|r| r.0 == now) {
            let (_, mut batch) = running.take().unwrap();
            batch.chunk += 1;
            let chunks = spec.stages[batch.stage].range.to().0 as usize;
            let cut = if spec.order == Order::Edf { chunks } else { 1 };
            if batch.chunk == cut {
                log.extend(batch.requests.iter().map(|&id| (now, id, true)));
            } else {
                aside.push(batch);
            }
        }
        if running.is_some() {
            continue;
        }
        waiting.sort_by_key(|(seq, a)| (a.stage, key_of(&a.request), *seq));
        for stage in 0..spec.stages.len() {
            while let Some(i) = waiting.iter().position(|(_, a)| a.stage == stage) {
                if waiting[i].1.request.latest_start.0 >= now {
                    break;
                }
                log.push((now, waiting.remove(i).1.request.id.0, false));
            }
        }
        let front = |stage: usize| {
            waiting
                .iter()
                .find(|(_, a)| a.stage == stage)
                .map(|(_, a)| a.request)
        };
        let time = |stage: usize, requests: usize| -> u64 {
            let (_, chunks) = spec.stages[stage]
                .runs
                .iter()
                .find(|(b, _)| *b as usize >= requests)
                .unwrap();
            chunks.iter().map(|c| c.time.0).sum()
        };
        let chosen = if spec.order == Order::Edf {
            let best_aside = aside
                .iter()
                .enumerate()
                .min_by_key(|(i, b)| (b.key, *i))
                .map(|(i, b)| (b.key, i));
            let best_queue = (0..spec.stages.len())
                .filter_map(|s| front(s).map(|r| (key_of(&r), s)))
                .min();
            match (best_aside, best_queue) {
                (Some((a, i)), q) if q.is_none_or(|(k, _)| a <= k) => Some(aside.remove(i)),
                (_, Some((key, stage))) => {
                    let queued = waiting.iter().filter(|(_, a)| a.stage == stage).count();
                    let mut size = queued.min(spec.stages[stage].batch as usize);
                    while size > 1 && now + time(stage, size) > key {
                        size = [8usize, 4, 2, 1].into_iter().find(|&b| b < size).unwrap();
                    }
                    Some((stage, size, key)).map(|(stage, size, key)| Aside {
                        key,
                        stage,
                        requests: take(&mut waiting, stage, size),
                        chunk: 0,
                    })
                }
                _ => None,
            }
        } else {
            let count = spec.stages.len();
            let found = (1..=count)
                .map(|i| (turn + i) % count)
                .find(|&s| front(s).is_some());
            found.map(|stage| {
                turn = stage;
                let size = waiting.iter().filter(|(_, a)| a.stage == stage).count();
                let size = size.min(spec.stages[stage].batch as usize);
                Aside {
                    key: 0,
                    stage,
                    requests: take(&mut waiting, stage, size),
                    chunk: 0,
                }
            })
        };
        if let Some(batch) = chosen {
            let (_, chunks) = spec.stages[batch.stage]
                .runs
                .iter()
                .find(|(b, _)| *b as usize >= batch.requests.len())
                .unwrap();
            running = Some((now + chunks[batch.chunk].time.0, batch));
        }
    }
    log
}

fn take(waiting: &mut Vec<(usize, Arrival)>, stage: usize, size: usize) -> Vec<u64> {
    (0..size)
        .map(|_| {
            let i = waiting.iter().position(|(_, a)| a.stage == stage).unwrap();
            waiting.remove(i).1.request.id.0
        })
        .collect()
}

fn scripts() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0u64..400, 0usize..3, 1u64..300, 0u64..250);
    proptest::collection::vec(one, 1..60).prop_map(|list| {
        let mut script: Vec<Arrival> = list
            .into_iter()
            .map(|(at, stage, budget, patience)| Arrival {
                at,
                stage,
                request: Request {
                    id: RequestId(0),
                    key: Nanos(at + budget),
                    latest_start: Nanos(at + patience),
                },
            })
            .collect();
        script.sort_by_key(|a| a.at);
        for (i, a) in script.iter_mut().enumerate() {
            a.request.id = RequestId(i as u64);
        }
        script
    })
}

fn partitions() -> impl Strategy<Value = Vec<StageSpec>> {
    let one = (prop::sample::select(vec![1u32, 2, 4, 8]), 1u16..5, 1u64..15);
    proptest::collection::vec(one, 3)
        .prop_map(|list| list.into_iter().map(|(b, c, u)| stage(b, c, u)).collect())
}

/// A cycle runs uncut: the whole run as one chunk.
fn uncut(stages: Vec<StageSpec>) -> Vec<StageSpec> {
    let joined = |s: StageSpec| {
        let range = s.range;
        let runs = s.runs.into_iter().map(|(b, chunks)| {
            let time = chunks.iter().fold(Nanos::ZERO, |sum, c| sum + c.time);
            (b, vec![Chunk { range, time }])
        });
        StageSpec {
            runs: runs.collect(),
            ..s
        }
    };
    stages.into_iter().map(joined).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn it_does_what_the_reference_says(stages in partitions(), script in scripts()) {
        let spec = spec(stages, Order::Edf, Admission::Off);
        prop_assert_eq!(drive(spec.clone(), &script), reference(&spec, &script, true));
    }

    #[test]
    fn a_cycle_does_what_the_reference_says(stages in partitions(), script in scripts()) {
        let spec = spec(uncut(stages), Order::Cycle, Admission::Off);
        let mut script = script;
        // Keys order a stage's queue in a cycle too.
        script.iter_mut().for_each(|a| a.request.latest_start = Nanos::MAX);
        prop_assert_eq!(drive(spec.clone(), &script), reference(&spec, &script, true));
    }

    #[test]
    fn every_request_is_answered_or_dropped_once(stages in partitions(), script in scripts()) {
        let mut seen: Vec<u64> =
            drive(spec(stages, Order::Edf, Admission::Off), &script).iter().map(|e| e.1).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..script.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn cancelled_requests_leave_and_nobody_else(
        script in scripts(), victims in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut scheduler = Scheduler::new(spec(vec![stage(4, 3, 5); 3], Order::Edf, Admission::Off));
        let mut alive: std::collections::BTreeSet<u64> = (0..script.len() as u64).collect();
        let mut victims = victims.iter();
        let mut answered = std::collections::BTreeSet::new();
        let mut now = 0;
        for a in &script {
            scheduler.submit(Nanos(now), StageIndex(a.stage as u16), Request { latest_start: Nanos::MAX, ..a.request }).unwrap();
            if let Some(v) = victims.next() {
                let id = v.index(script.len()) as u64;
                if scheduler.cancel(RequestId(id)) != Cancelled::Unknown {
                    alive.remove(&id);
                }
            }
            if let Some(run) = scheduler.next(Nanos(now), &mut vec![]) {
                now += run.expected.0;
                if let Some(Finished::Done(done)) = scheduler.finished() {
                    answered.extend(done.iter().map(|id| id.0));
                }
            }
            scheduler.take_abandoned();
        }
        while let Some(run) = scheduler.next(Nanos(now), &mut vec![]) {
            now += run.expected.0;
            if let Some(Finished::Done(done)) = scheduler.finished() {
                answered.extend(done.iter().map(|id| id.0));
            }
            scheduler.take_abandoned();
        }
        prop_assert!(scheduler.is_idle());
        prop_assert_eq!((0..3).map(|s| scheduler.present(StageIndex(s))).sum::<usize>(), 0);
        prop_assert_eq!(answered, alive);
    }
}

#[test]
fn a_scheduler_that_ignores_keys_is_found_out() {
    let spec = spec(vec![stage(1, 1, 10)], Order::Edf, Admission::Off);
    let arrival = |id, key| Arrival {
        at: 0,
        stage: 0,
        request: request(id, key),
    };
    let script = [arrival(0, 100), arrival(1, 50)];
    assert_ne!(drive(spec.clone(), &script), reference(&spec, &script, false));
    assert_eq!(drive(spec.clone(), &script), reference(&spec, &script, true));
}

#[test]
fn a_running_batch_gives_way_at_a_cut_point() {
    let mut s = Scheduler::new(spec(
        vec![stage(1, 3, 10), stage(1, 1, 10)],
        Order::Edf,
        Admission::On,
    ));
    s.submit(Nanos(0), StageIndex(0), request(1, 1000)).unwrap();
    let long = s.next(Nanos(0), &mut vec![]).unwrap();
    assert_eq!(
        (long.range.from(), long.range.to(), long.last),
        (CutPoint(0), CutPoint(1), false)
    );
    s.submit(Nanos(5), StageIndex(1), request(2, 100)).unwrap();
    assert_eq!(s.next(Nanos(5), &mut vec![]), None);
    assert_eq!(s.finished(), Some(Finished::SetAside));
    assert_eq!(s.next(Nanos(10), &mut vec![]).unwrap().requests, [RequestId(2)]);
    assert_eq!(s.finished(), Some(Finished::Done(vec![RequestId(2)])));
    let rest = s.next(Nanos(20), &mut vec![]).unwrap();
    assert_eq!((rest.batch, rest.range.from()), (long.batch, CutPoint(1)));
}

#[test]
fn a_batch_shrinks_until_its_first_key_is_kept() {
    let mut s = Scheduler::new(spec(vec![stage(8, 1, 10)], Order::Edf, Admission::On));
    for id in 0..8 {
        s.submit(Nanos(0), StageIndex(0), request(id, 26)).unwrap();
    }
    // Eight take 45, four take 25.
    assert_eq!(s.next(Nanos(0), &mut vec![]).unwrap().requests.len(), 4);
}

#[test]
fn late_surplus_and_double_requests_are_refused_at_the_door() {
    let mut spec = spec(vec![stage(1, 1, 10)], Order::Edf, Admission::On);
    spec.limits.queued_requests = 2;
    let mut s = Scheduler::new(spec);
    let late = Request {
        latest_start: Nanos(4),
        ..request(9, 100)
    };
    assert_eq!(s.submit(Nanos(5), StageIndex(0), late), Err(Refusal::Late));
    assert_eq!(
        s.submit(Nanos(5), StageIndex(7), request(1, 1)),
        Err(Refusal::UnknownStage)
    );
    s.submit(Nanos(5), StageIndex(0), request(1, 1)).unwrap();
    assert_eq!(
        s.submit(Nanos(5), StageIndex(0), request(1, 1)),
        Err(Refusal::Duplicate)
    );
    s.submit(Nanos(5), StageIndex(0), request(2, 1)).unwrap();
    assert_eq!(
        s.submit(Nanos(5), StageIndex(0), request(3, 1)),
        Err(Refusal::Overloaded)
    );
    assert_eq!(s.queued(), 2);
}

#[test]
fn no_more_batches_are_set_aside_than_allowed() {
    let mut spec = spec(vec![stage(1, 4, 10)], Order::Edf, Admission::On);
    spec.limits.set_aside_batches = 2;
    let mut s = Scheduler::new(spec);
    let mut batches = std::collections::BTreeSet::new();
    for (id, key) in [(1, 900), (2, 800), (3, 700), (4, 600)] {
        s.submit(Nanos(0), StageIndex(0), request(id, key)).unwrap();
        batches.insert(s.next(Nanos(0), &mut vec![]).unwrap().batch);
        s.finished();
    }
    // The third and fourth had to wait: two batches were set aside already.
    assert_eq!(batches.len(), 2);
}

#[test]
fn giving_up_empties_everything_but_the_running_chunk() {
    let mut s = Scheduler::new(spec(vec![stage(1, 2, 10)], Order::Edf, Admission::On));
    s.submit(Nanos(0), StageIndex(0), request(1, 10)).unwrap();
    s.next(Nanos(0), &mut vec![]).unwrap();
    s.submit(Nanos(0), StageIndex(0), request(2, 20)).unwrap();
    assert_eq!(s.give_up(), (vec![RequestId(2)], vec![]));
    assert!(!s.is_idle());
    assert_eq!(s.failed(), [RequestId(1)]);
    assert!(s.is_idle());
}

#[test]
fn a_request_may_come_back_after_it_was_cancelled_in_a_batch() {
    let mut s = Scheduler::new(spec(vec![stage(1, 2, 10)], Order::Edf, Admission::On));
    s.submit(Nanos(0), StageIndex(0), request(1, 10)).unwrap();
    s.next(Nanos(0), &mut vec![]).unwrap();
    assert_eq!(s.cancel(RequestId(1)), Cancelled::InBatch);
    s.submit(Nanos(1), StageIndex(0), request(1, 10)).unwrap();
    assert_eq!(s.finished(), Some(Finished::Abandoned));
    assert_eq!(s.next(Nanos(2), &mut vec![]).unwrap().requests, [RequestId(1)]);
}
