//! Who plays: phones and other clients, as a scenario and a seed make them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use graft_certify::Generator;
use graft_client_core::{Layers, Pilot, PilotOptions, Prefer};
use graft_model::{CutPoint, ModelId};
use graft_plan::{
    FragmentClient, ModelProfile, Nanos, PhoneGroup, Profiles, Range, Scenario, Slo, Speed, ms_to_nanos,
};

use crate::arrivals::{Process, load_steps};
use crate::names::identity;
use crate::phone::{Phone, PhoneLink};
use crate::trace::Trace;

/// A scenario that can't be played on a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CastError {
    /// The profile has no such model.
    #[error("{place}: the profile has no model {model:?}; it has {known}")]
    UnknownModel {
        /// Where in the scenario.
        place: String,
        /// As named there.
        model: String,
        /// What there is.
        known: String,
    },
    /// The partition point is beyond the last cut point.
    #[error("{place}: partition point {point} is beyond {model}'s last cut point {last}")]
    BeyondLastCut {
        /// Where in the scenario.
        place: String,
        /// The model.
        model: String,
        /// As named there.
        point: CutPoint,
        /// The last there is.
        last: usize,
    },
    /// At the last cut point nothing is left to be run.
    #[error("{place}: its partition point is {model}'s last cut point, where nothing is left to be run")]
    NothingLeft {
        /// Where in the scenario.
        place: String,
        /// The model.
        model: String,
    },
    /// Speeds in GFLOP/s need the layers' operations.
    #[error(
        "{place}.device: the profile does not say how many operations {model}'s segments are (flops); give a slowdown"
    )]
    NoFlops {
        /// Where in the scenario.
        place: String,
        /// The model.
        model: String,
    },
}

/// A client that always hands over at the same point with the same budget.
#[derive(Debug)]
pub(crate) struct Stream {
    pub id: String,
    pub model: ModelId,
    pub point: CutPoint,
    pub budget: Nanos,
    pub router: u32,
    pub process: Process,
    pub requests: u64,
    pub in_time: u64,
}

/// Who plays.
#[derive(Debug, Default)]
pub(crate) struct Cast {
    pub phones: Vec<Phone>,
    pub streams: Vec<Stream>,
    /// When each phone comes.
    pub joins: Vec<Nanos>,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// Fastest and slowest made-up traces of a kind that is missing.
const MADE_UP: usize = 12;

/// Traces by what scenarios ask for; missing ones are made up.
struct Library<'a> {
    given: &'a [Arc<Trace>],
    found: HashMap<String, Vec<Arc<Trace>>>,
    notes: Vec<String>,
}

impl Library<'_> {
    fn find(&mut self, pattern: &str) -> &[Arc<Trace>] {
        if !self.found.contains_key(pattern) {
            let fits = |t: &&Arc<Trace>| match pattern.strip_suffix('*') {
                Some(start) => t.name.starts_with(start),
                None => t.name == pattern,
            };
            let mut list: Vec<Arc<Trace>> = self.given.iter().filter(fits).cloned().collect();
            if list.is_empty() {
                self.notes
                    .push(format!("there is no trace {pattern}: its bandwidths are made up"));
                let start = pattern.trim_end_matches('*');
                let count = if pattern.ends_with('*') { MADE_UP } else { 1 };
                let made_up = |i: usize| Arc::new(Trace::made_up(&format!("{start}-{i}"), 1));
                list = (0..count).map(made_up).collect();
            }
            self.found.insert(pattern.to_owned(), list);
        }
        self.found.get(pattern).map_or(&[], Vec::as_slice)
    }
}

/// A model's figures on the first kind of device that runs it.
fn model<'a>(profiles: &'a Profiles, name: &str, place: &str) -> Result<&'a ModelProfile, CastError> {
    let mut known = profiles.kinds().iter().filter_map(|p| p.models.get(name));
    known.next().ok_or_else(|| CastError::UnknownModel {
        place: place.to_owned(),
        model: name.to_owned(),
        known: profiles.models().collect::<Vec<_>>().join(", "),
    })
}

fn check_point(of: &ModelProfile, name: &str, point: CutPoint, place: &str) -> Result<(), CastError> {
    if point.index() <= of.segments.len() {
        return Ok(());
    }
    Err(CastError::BeyondLastCut {
        place: place.to_owned(),
        model: name.to_owned(),
        point,
        last: of.segments.len(),
    })
}

/// Layers up to each cut point, in units of the whole's operations or of the smallest share's milliseconds.
fn head(of: &ModelProfile, speed: Speed) -> Option<Vec<f64>> {
    let mut sum = 0.0;
    let mut head = vec![0.0];
    for segment in &of.segments {
        sum += match speed {
            // A GFLOP/s is a million operations a millisecond.
            Speed::Gflops(_) => segment.flops? as f64 / 1e6,
            Speed::Slowdown(_) => segment.ms[0][0],
        };
        head.push(sum);
    }
    Some(head)
}

impl Cast {
    /// `profiles` have the scenario's names of models.
    pub fn new(
        scenario: &Scenario,
        profiles: &Profiles,
        traces: &[Arc<Trace>],
        seed: u64,
    ) -> Result<Self, CastError> {
        let mut library = Library {
            given: traces,
            found: HashMap::new(),
            notes: vec![],
        };
        let mut cast = Cast::default();
        let routers = scenario.routers.max(1);
        for (g, group) in scenario.phones.iter().enumerate() {
            cast.add_group(g, group, profiles, &mut library, seed, routers)?;
        }
        for (i, client) in scenario.fragments.iter().enumerate() {
            let place = format!("fragments[{i}]");
            let of = model(profiles, &client.model, &place)?;
            check_point(of, &client.model, client.partition_point, &place)?;
            if client.partition_point.index() == of.segments.len() {
                return Err(CastError::NothingLeft {
                    place,
                    model: client.model.clone(),
                });
            }
            cast.streams.push(stream(client, seed, i as u32 % routers));
        }
        cast.notes = library.notes;
        Ok(cast)
    }

    fn add_group(
        &mut self,
        number: usize,
        group: &PhoneGroup,
        profiles: &Profiles,
        library: &mut Library<'_>,
        seed: u64,
        routers: u32,
    ) -> Result<(), CastError> {
        let place = format!("phones[{number}]");
        let names = group.model.list();
        // What all phones of a model have in common.
        let mut common: BTreeMap<&str, (Vec<f64>, Arc<[u64]>)> = BTreeMap::new();
        for name in names {
            let of = model(profiles, name, &place)?;
            if let Some(point) = group.partition_point {
                check_point(of, name, point, &place)?;
            }
            let head = head(of, group.device).ok_or_else(|| CastError::NoFlops {
                place: place.clone(),
                model: name.clone(),
            })?;
            let bytes = of
                .cut_bytes
                .iter()
                .map(|b| b * u64::from(group.element_bytes) / 2);
            common.insert(name, (head, bytes.collect()));
        }
        let load = load_steps(&group.load);
        for i in 0..group.count {
            let mut dice = Generator::new(seed, &format!("phones[{number}][{i}]"));
            let name = &names[dice.bits() as usize % names.len()];
            let (head, bytes) = &common[name.as_str()];
            let times = match group.device {
                Speed::Gflops(range) => 1.0 / range.at_logarithm(dice.part()),
                Speed::Slowdown(range) => range.at_logarithm(dice.part()),
            };
            let head_ms: Arc<[f64]> = head.iter().map(|h| h * times).collect();
            let slo_ms = match group.slo {
                Slo::Ms(range) => range.at(dice.part()),
                Slo::OfLocal(range) => range.at(dice.part()) * head_ms.last().copied().unwrap_or(0.0),
            };
            let rate = group.rate_rps.at_logarithm(dice.part());
            let trace = match (&group.link.trace, group.link.mbps) {
                (Some(patterns), _) => {
                    let patterns = patterns.list();
                    let fitting = library.find(&patterns[dice.bits() as usize % patterns.len()]);
                    Arc::clone(&fitting[dice.bits() as usize % fitting.len()])
                }
                (None, mbps) => Arc::new(Trace::constant(
                    mbps.unwrap_or(Range::One(1.0)).at_logarithm(dice.part()),
                )),
            };
            let link = PhoneLink {
                offset_s: dice.part() * trace.length_s(),
                trace,
                rtt_ms: group.link.rtt_ms.at(dice.part()),
            };
            let mut seconds = |range: Range| ms_to_nanos(range.at(dice.part()) * 1e3);
            self.joins.push(seconds(group.join_s));
            let (stay, away) = (group.stay_s.map(&mut seconds), group.away_s.map(&mut seconds));
            let layers = Layers {
                allowed: [].into(),
                head_ms,
                rest_ms: [].into(),
                coding_ms: [].into(),
                answer_bytes: bytes.last().copied().unwrap_or(0),
                bytes: Arc::clone(bytes),
            };
            let pilot = Pilot::new(PilotOptions {
                slo: ms_to_nanos(slo_ms),
                prefer: if group.hints {
                    Prefer::Server
                } else {
                    Prefer::Speed
                },
                partition_point: group.partition_point,
            });
            self.phones.push(Phone {
                model: identity(name),
                router: self.phones.len() as u32 % routers,
                layers,
                slo: ms_to_nanos(slo_ms),
                process: Process::new(group.arrivals.clone(), rate, Arc::clone(&load), dice),
                link,
                stay,
                away,
                here: false,
                due: false,
                pilot,
                waiting: vec![],
                heads: 0,
                device_free: Nanos::ZERO,
                link_free: Nanos::ZERO,
            });
        }
        Ok(())
    }
}

fn stream(client: &FragmentClient, seed: u64, router: u32) -> Stream {
    // Seeded as in the reference simulation.
    let dice = Generator::new(seed, &client.id);
    Stream {
        id: client.id.clone(),
        model: identity(&client.model),
        point: client.partition_point,
        budget: ms_to_nanos(client.budget_ms),
        router,
        process: Process::new(
            client.arrivals.clone(),
            client.rate_rps,
            load_steps(&client.load),
            dice,
        ),
        requests: 0,
        in_time: 0,
    }
}
