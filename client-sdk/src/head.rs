//! Who runs layers on a device: an engine of Graft's, or the app itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use graft_files::CatalogEntry;
use graft_model::{Batch, Cut, CutPoint, ModelInfo, StageRange};
use serde::{Deserialize, Serialize};

use crate::device_error::DeviceError;

/// Runs layers of one model. Apps bring their own, on LiteRT, Core ML or whatever they have, from what `graft model split` writes; where
/// layers can be cut for them, they are chosen among, measured, and fallen back to.
pub trait Head: Send + Sync {
    /// What it runs on; part of the name under which it is kept what layers take.
    fn name(&self) -> &str;

    /// Whether it has these layers: from the input to a cut point, or from one to the end. Without any to the end, there is no falling back
    /// from a server that does not answer; those from the input to the end do for all.
    fn has(&self, range: StageRange) -> bool;

    /// Makes layers ready. Blocks; what is not made ready is made when it is run.
    fn prepare(&self, model: &ModelInfo, ranges: &[StageRange]) -> Result<(), DeviceError> {
        let _ready = (model, ranges);
        Ok(())
    }

    /// Runs layers that it has on one request. Blocks; calls come one after the other, or several at a time.
    fn run(&self, model: &ModelInfo, range: StageRange, input: Batch) -> Result<Batch, DeviceError>;
}

/// How far the measuring of a model is, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub all: usize,
}

/// What a model's layers take here, in milliseconds, for each cut point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// From the input to there; `None`: it can't be run so far.
    pub head_ms: Vec<Option<f64>>,
    /// All that is left after handing over there, should no answer come; `None`: it can't be run.
    pub rest_ms: Vec<Option<f64>>,
}

/// A model that is loaded on this device, and what it costs here.
#[derive(Clone)]
pub struct ModelHere {
    /// What is known of it.
    pub entry: CatalogEntry,
    /// What its layers take.
    pub taken: Taken,
    runs: Arc<dyn Head>,
    /// Coding an element of what is sent, in nanoseconds.
    coding_ns: f64,
}

impl std::fmt::Debug for ModelHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelHere")
            .field("model", &self.entry.manifest.name)
            .field("on", &self.runs.name())
            .finish_non_exhaustive()
    }
}

/// Runs of which each figure is the median.
const REPEATS: usize = 7;

impl ModelHere {
    #[cfg(feature = "engines")]
    pub(crate) fn new(entry: CatalogEntry, taken: Taken, runs: Arc<dyn Head>) -> Self {
        ModelHere {
            coding_ns: coding_ns(&entry.info),
            entry,
            taken,
            runs,
        }
    }

    /// A model whose layers the app runs. They are measured, unless a folder has what they take. Blocks.
    pub fn on_head(
        entry: CatalogEntry,
        runs: Arc<dyn Head>,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DeviceError> {
        let on = format!("{}-{:016x}", runs.name(), layers_of(&entry.info, &*runs));
        let kept = cache.map(|folder| Kept::of(folder, &entry, &on));
        let taken = match kept.as_ref().and_then(|kept| kept.read(entry.info.cuts.len())) {
            Some(taken) => taken,
            None => {
                let taken = measure(&entry.info, &*runs, progress)?;
                if let Some(kept) = kept {
                    kept.write(&taken);
                }
                taken
            }
        };
        Ok(ModelHere {
            coding_ns: coding_ns(&entry.info),
            entry,
            taken,
            runs,
        })
    }

    /// What all layers take here, in milliseconds; without end where they can't be run.
    pub fn whole_ms(&self) -> f64 {
        self.taken
            .head_ms
            .last()
            .copied()
            .flatten()
            .unwrap_or(f64::INFINITY)
    }

    /// What coding a request's tensors takes here at a cut point, in milliseconds.
    pub(crate) fn coding_ms(&self, point: CutPoint) -> f64 {
        let elements = self.entry.info.cut(point).map_or(0, Cut::elements);
        elements as f64 * self.coding_ns / 1e6
    }

    /// Whether it can be handed over there: the layers before it can be run here.
    pub(crate) fn reaches(&self, point: CutPoint) -> bool {
        self.taken.head_ms.get(point.index()).is_some_and(Option::is_some)
    }

    /// Whether the layers after a cut point can be run by themselves.
    pub(crate) fn has_rest(&self, point: CutPoint) -> bool {
        self.entry
            .info
            .tail(point)
            .is_none_or(|range| self.runs.has(range))
    }

    /// Makes ready what handing over at a cut point takes: the layers before it, and those that are run when no answer comes. Blocks.
    pub(crate) fn prepare(&self, point: CutPoint) -> Result<(), DeviceError> {
        let info = &self.entry.info;
        let rest = if self.has_rest(point) {
            info.tail(point)
        } else {
            info.whole()
        };
        let ranges = StageRange::new(CutPoint(0), point).into_iter().chain(rest);
        let ranges: Vec<StageRange> = ranges.filter(|range| self.runs.has(*range)).collect();
        self.runs.prepare(info, &ranges)
    }

    /// Runs layers. Blocks.
    pub fn run(&self, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
        let info = &self.entry.info;
        match parts(info, &*self.runs, range) {
            Some((head, tail)) => {
                let middle = run(info, &*self.runs, head, input)?;
                run(info, &*self.runs, tail, middle)
            }
            None => run(info, &*self.runs, range, input),
        }
    }
}

/// What coding an element takes here, in nanoseconds; 0 where the model has no features.
fn coding_ns(info: &ModelInfo) -> f64 {
    let coded = info.cut_points().filter(|point| info.coding(*point).is_some());
    let largest = coded.max_by_key(|point| info.cut(*point).map_or(0, Cut::elements));
    let Some((point, cut)) = largest.and_then(|point| Some((point, info.cut(point)?))) else {
        return 0.0;
    };
    let request = Batch::pseudo_random(cut, 1, 1);
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            let _bytes = info.encode(point, &request);
            start.elapsed().as_nanos() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2] / cut.elements() as f64
}

/// The head and the tail by which all layers are run, where there are not all in one piece.
fn parts(info: &ModelInfo, runs: &dyn Head, range: StageRange) -> Option<(StageRange, StageRange)> {
    if runs.has(range) || info.whole() != Some(range) {
        return None;
    }
    let mut both = info.cut_points().filter_map(|point| {
        let (head, tail) = (StageRange::new(CutPoint(0), point)?, info.tail(point)?);
        (runs.has(head) && runs.has(tail)).then_some((head, tail))
    });
    both.next()
}

/// Runs layers, and looks at what came out.
fn run(info: &ModelInfo, runs: &dyn Head, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
    if !runs.has(range) {
        let what = format!(
            "{} has not the layers {range}, and no server is there for them",
            runs.name()
        );
        return Err(DeviceError::Head(what));
    }
    let output = runs.run(info, range, input)?;
    match info.cut(range.to()) {
        Some(cut) if output.fits(cut) && output.requests() == 1 => Ok(output),
        Some(cut) => {
            let name = runs.name();
            Err(DeviceError::Head(format!(
                "{name} gave {output} for the layers {range}, and they end with {cut}"
            )))
        }
        None => Err(DeviceError::Head(format!("there are no layers {range}"))),
    }
}

/// A number for the layers that a head has: with others, other figures count (FNV-1a).
fn layers_of(info: &ModelInfo, runs: &dyn Head) -> u64 {
    let heads = info.cut_points().map(|point| StageRange::new(CutPoint(0), point));
    let tails = info.cut_points().map(|point| info.tail(point));
    heads
        .chain(tails)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, range| {
            let has = range.is_some_and(|range| runs.has(range));
            (hash ^ u64::from(has)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Measures all that a head has.
fn measure(
    info: &ModelInfo,
    runs: &dyn Head,
    progress: &mut dyn FnMut(Progress),
) -> Result<Taken, DeviceError> {
    let last = info.last();
    let heads: Vec<Option<StageRange>> = info
        .cut_points()
        .map(|point| StageRange::new(CutPoint(0), point).filter(|range| runs.has(*range)))
        .collect();
    let tails = info.cut_points().filter_map(|point| info.tail(point));
    let tails: Vec<StageRange> = tails
        .filter(|range| range.from() > CutPoint(0) && runs.has(*range))
        .collect();
    let all = heads.iter().flatten().count() + tails.len();
    let mut done = 0;
    let mut time = |range: StageRange, input: &Batch| -> Result<(f64, Batch), DeviceError> {
        let mut output = run(info, runs, range, input.clone())?;
        let mut times = vec![];
        for _ in 0..REPEATS {
            let input = input.clone();
            let start = Instant::now();
            output = run(info, runs, range, input)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        done += 1;
        progress(Progress { done, all });
        Ok((times[REPEATS / 2], output))
    };
    let input = Batch::pseudo_random(info.inputs(), 1, 1);
    let mut taken = Taken {
        head_ms: vec![],
        rest_ms: vec![],
    };
    let mut middles = vec![];
    for (point, range) in info.cut_points().zip(&heads) {
        let (ms, middle) = match range {
            Some(range) => {
                let (ms, middle) = time(*range, &input)?;
                (Some(ms), Some(middle))
            }
            None => (None, None),
        };
        taken
            .head_ms
            .push(if point == CutPoint(0) { Some(0.0) } else { ms });
        middles.push(middle);
    }
    let mut tail_ms = vec![];
    for (point, middle) in info.cut_points().zip(middles) {
        let tail = tails.iter().find(|range| range.from() == point);
        tail_ms.push(match (tail, middle) {
            (Some(range), Some(middle)) => Some(time(*range, &middle)?.0),
            _ => None,
        });
    }
    if taken.head_ms[last.index()].is_none()
        && let Some((head, _)) = info.whole().and_then(|whole| parts(info, runs, whole))
    {
        let at = head.to().index();
        taken.head_ms[last.index()] = taken.head_ms[at].zip(tail_ms[at]).map(|(head, tail)| head + tail);
    }
    let whole = taken.head_ms[last.index()];
    taken.rest_ms = tail_ms.into_iter().map(|own| own.or(whole)).collect();
    taken.rest_ms[last.index()] = Some(0.0);
    Ok(taken)
}

/// What a model's layers take on this kind of device, in a file.
pub(crate) struct Kept(PathBuf);

impl Kept {
    /// `on`: what they run on.
    pub fn of(folder: &Path, entry: &CatalogEntry, on: &str) -> Self {
        let make = format!("{on}-{}", env!("CARGO_PKG_VERSION"));
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        let make: String = make.chars().map(plain).take(100).collect();
        Kept(folder.join(format!("{}-{make}.json", entry.info.id)))
    }

    /// What was kept, if it can be so: figures for each cut point.
    pub fn read(&self, cuts: usize) -> Option<Taken> {
        let text = std::fs::read(&self.0).ok()?;
        let taken: Taken = serde_json::from_slice(&text).ok()?;
        let can_be = |list: &[Option<f64>]| list.len() == cuts && list.iter().flatten().all(|ms| *ms >= 0.0);
        let sound = can_be(&taken.head_ms) && can_be(&taken.rest_ms) && taken.head_ms[0] == Some(0.0);
        sound.then_some(taken)
    }

    /// What can't be kept is measured again the next time.
    pub fn write(&self, taken: &Taken) {
        let written = || -> std::io::Result<()> {
            std::fs::create_dir_all(self.0.parent().unwrap_or(Path::new(".")))?;
            let draft = self.0.with_extension(format!("{}.draft", std::process::id()));
            std::fs::write(&draft, serde_json::to_vec(taken)?)?;
            std::fs::rename(&draft, &self.0)
        };
        if let Err(error) = written() {
            tracing::warn!(file = %self.0.display(), %error, "what layers take here can't be kept");
        }
    }
}
