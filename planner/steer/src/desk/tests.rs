//! A desk with workers and routers around it, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use graft_certify::Alone;
use graft_plan::{ModelProfile, Profile, SegmentProfile, Share, Source};
use graft_planner_search::{GraftOptions, plan_what_fits};
use graft_wire::{DeviceInfo, MixEntry, PartitionReport, WorkerInfo, WorkerModel};

use super::*;
use crate::doing::Made;

const MODEL: ModelId = ModelId([9; 32]);

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

/// Four segments of a millisecond each on one core.
fn info(name: &str) -> WorkerInfo {
    let segment = SegmentProfile {
        weights_bytes: 1000,
        flops: None,
        ms: vec![vec![1.0], vec![1.6]],
    };
    let model = ModelProfile {
        cut_bytes: vec![100; 5],
        segments: vec![segment; 4],
    };
    let profile = Profile {
        version: 1,
        device_kind: "cpu".to_owned(),
        source: Source::Modelled,
        share_total: Share(1),
        shares: vec![Share(1)],
        batches: vec![1, 2],
        stage_overhead_ms: 0.02,
        hop_ms: 0.05,
        models: BTreeMap::from([(MODEL.to_string(), model)]),
    };
    WorkerInfo {
        name: name.to_owned(),
        address: format!("{name}:1"),
        devices: vec![DeviceInfo {
            id: name.to_owned(),
            kind: "cpu".to_owned(),
            share_total: 1,
            memory_bytes: 1 << 30,
            price: None,
            profile,
            emulated: false,
        }],
        models: vec![WorkerModel {
            id: MODEL,
            name: "small".to_owned(),
        }],
        epoch: Epoch(0),
    }
}

fn options() -> DeskOptions {
    DeskOptions {
        headroom: 0.1,
        standing: None,
        retire_after: ms(3000),
        began_unix_ms: 1_000_000,
    }
}

/// A desk, and what its members do and are told.
struct Around {
    now: Nanos,
    desk: Desk,
    /// No number can be kept.
    disk_full: bool,
    /// Workers that can't prepare.
    unable: BTreeSet<String>,
    /// Workers with what they have prepared.
    prepared: BTreeMap<String, BTreeSet<Epoch>>,
    /// Routers with what they were told last.
    told: BTreeMap<String, RoutesUpdate>,
    kept: Option<Kept>,
    epochs: Vec<Epoch>,
    notes: Vec<Note>,
}

impl Around {
    fn new(memory: Memory) -> Self {
        Around {
            now: ms(0),
            desk: Desk::new(ms(0), options(), memory),
            disk_full: false,
            unable: BTreeSet::new(),
            prepared: BTreeMap::new(),
            told: BTreeMap::new(),
            kept: None,
            epochs: vec![],
            notes: vec![],
        }
    }

    /// A router, and workers.
    fn with(workers: &[&str]) -> Self {
        let mut around = Around::new(Memory::default());
        workers.iter().for_each(|worker| around.joins(worker));
        around.router_joins();
        around
    }

    fn hears(&mut self, event: Event) {
        self.desk.heard(self.now, event).unwrap();
        self.does();
    }

    fn joins(&mut self, worker: &str) {
        self.hears(Event::Joined(Join::Worker(Box::new(info(worker)))));
    }

    fn router_joins(&mut self) {
        let epoch = self.told.get("r").map_or(Epoch(0), |update| update.epoch);
        let name = "r".to_owned();
        self.hears(Event::Joined(Join::Router { name, epoch }));
    }

    /// The router reports so many requests a second at a cut point.
    fn asks(&mut self, point: u16, rate_rps: f64) {
        let report = MixReport {
            window_s: 10.0,
            entries: vec![MixEntry {
                model: MODEL,
                partition_point: CutPoint(point),
                budget_ms: 60.0,
                rate_rps,
                burstiness: 1.0,
            }],
            urgent: true,
            outcomes: vec![],
        };
        let router = "r".to_owned();
        self.hears(Event::Mix { router, report });
    }

    fn does(&mut self) {
        while let Some(what) = self.desk.poll(self.now) {
            let heard = match what {
                Do::KeepEpoch(epoch) => {
                    let full = || Err(Undone::NotKept("the disk is full".to_owned()));
                    Event::EpochKept(epoch, if self.disk_full { full() } else { Ok(()) })
                }
                Do::Plan {
                    epoch,
                    problem,
                    running,
                } => {
                    self.epochs.push(epoch);
                    let options = GraftOptions::default();
                    let go_on = &mut |_| false;
                    let carried = plan_what_fits(&problem, epoch, running.as_ref(), options, &Alone, go_on);
                    let planning_ms = 1.0;
                    Event::Made(epoch, Ok(Made { carried, planning_ms }))
                }
                Do::Prepare { worker, epoch, .. } if self.unable.contains(&worker) => {
                    Event::Prepared(worker, epoch, Err(Undone::Refused("no memory".to_owned())))
                }
                Do::Prepare { worker, epoch, .. } => {
                    self.prepared.entry(worker.clone()).or_default().insert(epoch);
                    Event::Prepared(worker, epoch, Ok(()))
                }
                Do::Switch {
                    router,
                    epoch,
                    update,
                } => {
                    self.told.insert(router.clone(), *update);
                    Event::Switched(router, epoch, Ok(()))
                }
                Do::Retire { worker, before } => {
                    if let Some(epochs) = self.prepared.get_mut(&worker) {
                        *epochs = epochs.split_off(&before);
                    }
                    continue;
                }
                Do::Abandon { worker, epoch } => {
                    self.prepared.entry(worker).or_default().remove(&epoch);
                    continue;
                }
                Do::Keep(kept) => {
                    self.kept = Some(*kept);
                    continue;
                }
                Do::Note(note) => {
                    self.notes.push(note);
                    continue;
                }
                Do::LetGo { .. } | Do::KeepDecision(_) | Do::ForgetDecision(_) | Do::Predict { .. } => {
                    continue;
                }
            };
            self.desk.heard(self.now, heard).unwrap();
        }
    }

    fn runs_for(&mut self, time: Nanos) {
        let end = self.now + time;
        while self.desk.next_at() <= end {
            self.now = self.desk.next_at().max(self.now);
            self.does();
        }
        self.now = end;
    }

    fn routes(&self) -> Vec<(u16, String)> {
        let routes = self.told["r"].routes.iter();
        routes.map(|r| (r.partition_point.0, r.worker.clone())).collect()
    }

    fn in_use(&self) -> Epoch {
        self.told["r"].epoch
    }
}

#[test]
fn who_asks_gets_a_plan_that_is_rolled_out_kept_and_replaces_the_one_before() {
    let mut around = Around::with(&["w"]);
    around.runs_for(ms(1000));
    around.asks(1, 20.0);
    around.runs_for(ms(1000));
    assert_eq!(around.routes(), [(1, "w".to_owned())]);
    assert_eq!(around.desk.readiness(around.now), Ok(()));
    let first = around.in_use();
    around.asks(2, 20.0);
    around.runs_for(ms(1000));
    assert!(around.routes().iter().any(|(point, _)| *point == 2));
    assert!(around.prepared["w"].contains(&first), "it drains");
    around.runs_for(ms(4000));
    assert_eq!(
        around.prepared["w"].iter().copied().collect::<Vec<_>>(),
        [around.in_use()]
    );
    assert_eq!(around.kept.as_ref().unwrap().plan.epoch, around.in_use());
    assert!(around.epochs.windows(2).all(|pair| pair[0] < pair[1]));
    let told: Vec<&str> = around.desk.decisions().map(|d| d.cause.as_str()).collect();
    assert!(told.contains(&"small/2 has no route"), "{told:?}");
}

#[test]
fn a_number_that_can_t_be_kept_is_not_planned_with_and_tried_again_later() {
    let mut around = Around::new(Memory::default());
    around.disk_full = true;
    around.joins("w");
    around.router_joins();
    around.runs_for(ms(3000));
    assert!(around.epochs.is_empty());
    assert!(
        around
            .desk
            .readiness(around.now)
            .unwrap_err()
            .to_string()
            .contains("disk is full")
    );
    around.disk_full = false;
    around.runs_for(ms(1000));
    assert_eq!(around.desk.readiness(around.now), Ok(()));
}

#[test]
fn a_worker_that_can_t_prepare_is_left_out_and_asked_again() {
    let mut around = Around::with(&["v", "w"]);
    around.unable.extend(["v".to_owned(), "w".to_owned()]);
    around.asks(1, 20.0);
    around.runs_for(ms(2000));
    assert!(around.told.is_empty(), "{:?}", around.told);
    around.unable.remove("w");
    around.runs_for(ms(6000));
    assert_eq!(around.routes(), [(1, "w".to_owned())]);
}

#[test]
fn a_worker_whose_engine_is_silent_is_taken_out_of_the_plan_until_it_answers() {
    let mut around = Around::with(&["w", "x"]);
    around.asks(1, 20.0);
    around.runs_for(ms(1000));
    let worker = around.routes()[0].1.clone();
    let other = if worker == "w" { "x" } else { "w" };
    let report = |silent| WorkerReport {
        epoch: Epoch(1),
        partitions: vec![PartitionReport {
            id: "p0".to_owned(),
            busy: 1.0,
            queued: 0,
            batches: 0,
            requests: 0,
            silent,
        }],
        runs: vec![],
    };
    for second in 0..12 {
        let (worker, report) = (worker.clone(), report(true));
        around.hears(Event::Work { worker, report });
        around.runs_for(ms(1000));
        assert_eq!(around.routes(), [(1, other.to_owned())], "after {second} s");
    }
    let silent = around.notes.iter().filter(|n| matches!(n, Note::Silent { .. }));
    assert_eq!(silent.count(), 1, "it is told once");
    let plans = around.epochs.len();
    around.hears(Event::Work {
        worker,
        report: report(false),
    });
    around.runs_for(ms(6000));
    assert!(
        around.epochs.len() > plans,
        "there is another worker to plan with"
    );
}

#[test]
fn a_worker_that_reports_and_joins_without_end_holds_no_more_than_one_that_does_so_once() {
    let mut around = Around::with(&["w", "x"]);
    let report = WorkerReport {
        epoch: Epoch(1),
        partitions: vec![PartitionReport {
            id: "p0".to_owned(),
            busy: 1.0,
            queued: 0,
            batches: 0,
            requests: 0,
            silent: true,
        }],
        runs: vec![],
    };
    for _ in 0..2000 {
        around.now += Nanos(1000);
        let (worker, report) = ("w".to_owned(), report.clone());
        around.hears(Event::Work { worker, report });
        around.joins("w");
    }
    // A look, what has settled, one worker to ask again, and plans to be retired.
    let alarms = &around.desk.alarms;
    assert!(alarms.len() <= 4, "{} alarms", alarms.len());
}

#[test]
fn when_the_last_worker_leaves_routers_are_told_and_when_it_is_back_it_goes_on() {
    let mut around = Around::with(&["w"]);
    around.asks(1, 20.0);
    around.runs_for(ms(1000));
    around.hears(Event::Left(Member::Worker("w".to_owned())));
    around.runs_for(ALONE);
    assert!(around.told["r"].routes.is_empty());
    assert!(around.desk.readiness(around.now).is_err());
    let nothing = around.in_use();
    around.joins("w");
    around.runs_for(ms(500));
    assert_eq!(around.routes(), [(1, "w".to_owned())]);
    assert!(around.in_use() > nothing);
    assert_eq!(around.desk.readiness(around.now), Ok(()));
}

#[test]
fn a_planner_that_was_cut_off_for_a_while_leaves_routers_what_they_have() {
    let mut around = Around::with(&["w"]);
    around.asks(1, 20.0);
    around.runs_for(ms(1000));
    let before = around.in_use();
    around.hears(Event::Left(Member::Worker("w".to_owned())));
    around.hears(Event::Left(Member::Router("r".to_owned())));
    around.runs_for(ms(2000));
    around.router_joins();
    around.runs_for(ms(2000));
    assert_eq!(
        around.routes(),
        [(1, "w".to_owned())],
        "nobody says that nothing is served"
    );
    assert_eq!(around.in_use(), before);
    around.joins("w");
    around.runs_for(ms(9000));
    assert_eq!(around.routes(), [(1, "w".to_owned())]);
}

#[test]
fn after_a_restart_no_plan_is_made_without_those_who_ran_the_one_before_until_they_had_time_to_join() {
    let mut before = Around::with(&["v", "w"]);
    before.asks(1, 400.0);
    before.runs_for(ms(1000));
    let memory = || Memory {
        kept: before.kept.clone(),
        highest: before.in_use(),
        decisions: vec![],
    };
    let devices = &before.kept.as_ref().unwrap().plan.partitions;
    let runs: BTreeSet<&str> = devices.iter().map(|p| p.device.as_str()).collect();
    let runs: Vec<&str> = runs.into_iter().collect();
    let mut after = Around::new(memory());
    after.joins(if runs[0] == "v" { "w" } else { "v" });
    after.runs_for(ms(2000));
    assert!(after.epochs.is_empty(), "{runs:?} may still come");
    runs.iter().for_each(|worker| after.joins(worker));
    after.runs_for(ms(500));
    assert!(!after.epochs.is_empty(), "all are there");
    let mut alone = Around::new(memory());
    alone.joins(if runs[0] == "v" { "w" } else { "v" });
    alone.runs_for(ALONE + ms(500));
    assert!(!alone.epochs.is_empty(), "nobody waits longer");
}

#[test]
fn a_worker_that_is_back_before_its_loss_was_noticed_is_not_left_out() {
    let mut around = Around::with(&["w"]);
    around.runs_for(ms(1000));
    around.joins("w");
    around.desk.leave_out(around.now, "x", false);
    assert!(around.desk.members.is_willing("w", around.now));
    let notice = Notice::Begins(Epoch(900), ["gone".to_owned()].into());
    around.desk.notice(around.now, notice);
    around.joins("gone");
    assert!(
        around.desk.members.is_willing("gone", around.now),
        "it was not there, and now is"
    );
}

#[test]
fn where_devices_ran_out_each_router_learns_how_many_there_are() {
    let mut around = Around::with(&["w"]);
    around.asks(1, 3000.0);
    around.runs_for(ms(2000));
    assert!(around.told["r"].limited);
    assert_eq!(around.told["r"].routers, 1);
    let join = |name: &str| {
        let name = name.to_owned();
        Event::Joined(Join::Router {
            name,
            epoch: Epoch(0),
        })
    };
    around.hears(join("s"));
    assert_eq!((around.told["r"].routers, around.told["s"].routers), (2, 2));
    around.hears(Event::Left(Member::Router("s".to_owned())));
    assert_eq!(around.told["r"].routers, 1);
}

#[test]
fn a_router_with_a_later_plan_than_is_known_holds_no_roll_out_up() {
    let mut around = Around::new(Memory::default());
    around.joins("w");
    let later = Join::Router {
        name: "r".to_owned(),
        epoch: Epoch(100),
    };
    // While the first plan is being made.
    around.now += ms(100);
    let mut making = None;
    while let Some(what) = around.desk.poll(around.now) {
        match what {
            Do::KeepEpoch(epoch) => around
                .desk
                .heard(around.now, Event::EpochKept(epoch, Ok(())))
                .unwrap(),
            Do::Plan { epoch, problem, .. } => making = Some((epoch, problem)),
            _ => {}
        }
    }
    let (epoch, problem) = making.expect("a plan is made");
    around.hears(Event::Joined(later));
    let (options, go_on) = (GraftOptions::default(), &mut |_| false);
    let carried = plan_what_fits(&problem, epoch, None, options, &Alone, go_on);
    let made = Made {
        carried,
        planning_ms: 1.0,
    };
    around.hears(Event::Made(epoch, Ok(made)));
    around.runs_for(ms(2000));
    assert!(around.in_use() > Epoch(100), "{:?}", around.in_use());
    assert_eq!(around.desk.readiness(around.now), Ok(()));
}

#[test]
fn after_a_restart_it_goes_on_from_the_mix_that_it_kept_with_a_later_number() {
    let mut before = Around::with(&["w"]);
    before.asks(1, 20.0);
    before.runs_for(ms(1000));
    let memory = Memory {
        kept: before.kept.clone(),
        highest: before.in_use(),
        decisions: before.desk.decisions().cloned().collect(),
    };
    let mut after = Around::new(memory);
    after.told = before.told.clone();
    after.joins("w");
    after.router_joins();
    after.runs_for(ms(500));
    assert_eq!(after.routes(), [(1, "w".to_owned())]);
    assert!(after.in_use() > before.in_use());
}

#[test]
fn what_is_served_in_any_case_is_not_taken_for_what_was_asked_for() {
    let standing = Standing {
        budget_ms: 80.0,
        rate_rps: 5.0,
    };
    let mut around = Around::new(Memory::default());
    around.desk.options.standing = Some(standing);
    around.joins("w");
    around.router_joins();
    around.runs_for(ms(500));
    assert_eq!(around.routes(), [(0, "w".to_owned())]);
    let kept = around.kept.clone().unwrap();
    assert_eq!(kept.standing.len(), 1);
    let memory = Memory {
        kept: Some(kept),
        highest: around.in_use(),
        decisions: vec![],
    };
    let desk = Desk::new(ms(0), options(), memory);
    assert!(desk.observed_mix().is_empty(), "{:?}", desk.observed_mix());
}

#[test]
fn strangers_and_nonsense_are_not_heard() {
    let mut around = Around::with(&["w"]);
    let report = MixReport {
        window_s: 1.0,
        entries: vec![],
        urgent: false,
        outcomes: vec![],
    };
    let router = "stranger".to_owned();
    let unheard = around.desk.heard(ms(1), Event::Mix { router, report });
    assert!(matches!(unheard, Err(Unheard::NotJoined(_))));
    for address in [
        "",
        "x",
        ":7",
        "host:",
        "host:0",
        "host:70000",
        "two words:7",
        &"x".repeat(300),
    ] {
        let nowhere = WorkerInfo {
            address: address.to_owned(),
            ..info("v")
        };
        let unheard = around
            .desk
            .heard(ms(1), Event::Joined(Join::Worker(Box::new(nowhere))));
        assert!(matches!(unheard, Err(Unheard::Nowhere { .. })), "{address}");
    }
    around.hears(Event::Joined(Join::Router {
        name: "r".to_owned(),
        epoch: Epoch(0),
    }));
    let entry = MixEntry {
        model: ModelId([7; 32]),
        partition_point: CutPoint(0),
        budget_ms: 10.0,
        rate_rps: 1.0,
        burstiness: 1.0,
    };
    let fast = MixEntry {
        rate_rps: 1e9,
        ..entry
    };
    for entries in [vec![entry; 16_000], vec![fast]] {
        let report = MixReport {
            window_s: 1.0,
            entries,
            urgent: true,
            outcomes: vec![],
        };
        let router = "r".to_owned();
        let unheard = around.desk.heard(ms(2), Event::Mix { router, report });
        assert!(matches!(unheard, Err(Unheard::Report { .. })), "{unheard:?}");
    }
    assert!(around.desk.observed_mix().is_empty());
    let from_nowhere = Join::Router {
        name: "r2".to_owned(),
        epoch: Epoch(u64::MAX - 1),
    };
    let unheard = around.desk.heard(ms(3), Event::Joined(from_nowhere));
    assert!(matches!(unheard, Err(Unheard::Epoch { .. })), "{unheard:?}");
    let mut named = info("v");
    let models = &mut named.devices[0].profile.models;
    let (_, model) = models.pop_first().unwrap();
    models.insert("resnet".to_owned(), model);
    let unheard = around
        .desk
        .heard(ms(1), Event::Joined(Join::Worker(Box::new(named))));
    assert_eq!(unheard, Err(Unheard::NoIdentity("resnet".to_owned())));
}

#[test]
fn devices_of_two_kinds_are_planned_for_together() {
    let mut around = Around::with(&["w"]);
    let mut other = info("x");
    let device = &mut other.devices[0];
    (device.id, device.kind, device.price) = ("x/gpu".to_owned(), "gpu".to_owned(), Some(3.0));
    device.share_total = 4;
    device.profile = Profile {
        device_kind: "gpu".to_owned(),
        share_total: Share(4),
        shares: vec![Share(2), Share(4)],
        ..device.profile.times(|_, _| 0.5)
    };
    for row in device.profile.models.values_mut().flat_map(|m| &mut m.segments) {
        row.ms.iter_mut().for_each(|ms| ms.push(ms[0] / 2.0));
    }
    around.hears(Event::Joined(Join::Worker(Box::new(other.clone()))));
    around.prepared.insert("x".to_owned(), BTreeSet::new());
    let premises = around.desk.members.premises(around.now).unwrap();
    let kinds = premises
        .hardware
        .profiles
        .kinds()
        .iter()
        .map(|p| p.device_kind.as_str());
    assert_eq!(kinds.collect::<BTreeSet<_>>(), BTreeSet::from(["cpu", "gpu"]));
    let ids = premises
        .hardware
        .devices
        .devices
        .iter()
        .map(|d| (d.id.as_str(), d.price));
    // One of the two devices has no price: both cost their share.
    assert_eq!(ids.collect::<Vec<_>>(), [("w", None), ("x/gpu", None)]);
    assert!(!premises.others);
    let hosts = around.desk.members.hosts();
    assert_eq!(hosts["x/gpu"].name, "x");

    // Of one kind the shares that all have measured count, by their sizes and not by their places.
    let mut third = other.clone();
    (third.name, third.devices[0].id) = ("y".to_owned(), "y".to_owned());
    let there = around
        .desk
        .heard(ms(1), Event::Joined(Join::Worker(Box::new(third.clone()))));
    assert!(
        matches!(there, Err(Unheard::Address { .. })),
        "x is there: {there:?}"
    );
    third.address = "y:1".to_owned();
    let profile = &mut third.devices[0].profile;
    profile.shares = vec![Share(4)];
    for segment in profile.models.values_mut().flat_map(|m| &mut m.segments) {
        segment.ms.iter_mut().for_each(|ms| *ms = ms.split_off(1));
    }
    around.hears(Event::Joined(Join::Worker(Box::new(third))));
    let premises = around.desk.members.premises(around.now).unwrap();
    let gpu = premises.hardware.profiles.of_kind("gpu").unwrap();
    assert_eq!(gpu.shares, [Share(4)]);
    assert_eq!(gpu.models[&MODEL.to_string()].segments[0].ms[0], [0.25]);
}

#[test]
fn a_worker_with_devices_that_make_no_sense_is_not_heard() {
    let mut around = Around::with(&["w"]);
    let mut refused = |change: &dyn Fn(&mut WorkerInfo), why: &str| {
        let mut info = info("x");
        change(&mut info);
        let joined = around
            .desk
            .heard(around.now, Event::Joined(Join::Worker(Box::new(info))));
        let text = joined.unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
    };
    refused(&|x| x.devices.clear(), "has 0 devices");
    refused(&|x| x.devices[0].id = "w".to_owned(), "has a device \"w\"");
    refused(&|x| x.devices[0].id = "x2".to_owned(), "has a device \"x2\"");
    refused(&|x| x.devices.push(x.devices[0].clone()), "has a device \"x\"");
    refused(&|x| x.devices[0].share_total = 0, "a share of 0");
    refused(&|x| x.devices[0].price = Some(f64::NAN), "a price of NaN");
    refused(
        &|x| x.devices[0].kind = "gpu".to_owned(),
        "its profile is of \"cpu\"",
    );
}
