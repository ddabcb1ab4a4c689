//! The coarsest codings with which the answers stay what they are.

use std::time::Instant;

use graft_client::picture;
use graft_engine::Engine as _;
use graft_features::CutCoding;
use graft_features::fit::{Coarseness, fit, layout};
use graft_model::{Batch, Cut, CutPoint, DType, Elements, ImageInput, Sent, StageRange};

use super::super::Here;
use super::pictures::Pictures;

/// Steps that are tried, as multiples of a channel's deviation: 2 to the power of -n/2, from 2 on.
const STEPS: usize = 16;
/// Where trying begins at the first cut point.
const FIRST: usize = 6;
/// Powers of channels' deviations that are tried.
const POWERS: [f32; 2] = [1.0, 0.5];
/// Multiple of the other labels that are asked for at which a cut point is coded all the same, where no step has as few.
const BEARABLE: f64 = 4.0;
/// Squares that codings are made from, at most.
const MOST_FIT: usize = 48;
/// Memory for the tensors of all squares that are held against, in bytes (1 GiB).
const MEMORY: usize = 1 << 30;
/// Requests of a batch.
const BATCH: usize = 8;
/// Quality of the JPEG to compare with, of 100.
const JPEG_QUALITY: u8 = 90;

/// What is asked of the search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub squares: usize,
    pub most_loss: f64,
    pub most_others: f64,
}

/// A cut point's coding.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub point: CutPoint,
    pub coding: CutCoding,
    /// Bytes as 32-bit floats.
    pub plain_bytes: usize,
    /// The step, as a multiple of channels' deviations.
    pub step: f32,
    pub answers: Answers,
    /// Coding a request, in milliseconds.
    pub encode_ms: f64,
}

/// What sending the picture itself would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsJpeg {
    pub quality: u8,
    pub bytes: usize,
    pub answers: Answers,
    pub encode_ms: f64,
}

/// A step that was tried.
struct Step {
    number: usize,
    coding: CutCoding,
    tried: Tried,
}

/// What a coding does to the answers.
struct Tried {
    answers: Answers,
    bytes: usize,
    encode_ms: f64,
}

pub(super) struct Search<'h> {
    here: &'h Here,
    image: &'h ImageInput,
    pictures: &'h Pictures,
    asked: Asked,
    /// Inputs that codings are made from.
    fit: Vec<Batch>,
    most_held: usize,
    /// Inputs that they are held against, and what is said of them.
    held: Vec<Batch>,
    said: Vec<Said>,
}

fn floats(batch: &Batch, tensor: usize) -> &[f32] {
    match batch.tensors().get(tensor).map(graft_model::Tensor::elements) {
        Some(Elements::F32(elements)) => elements,
        _ => &[],
    }
}

/// What a network says of a request: how likely each class of its first output is.
struct Said(Vec<f32>);

impl Said {
    /// Of each request. Outputs are numbers of which the largest is the class: likelihoods where they make up 1, else their logarithms.
    fn of_all(outputs: &Batch) -> Vec<Said> {
        let all = floats(outputs, 0);
        let each = (all.len() / outputs.requests().max(1)).max(1);
        let one = |own: &[f32]| {
            let is_likelihood = own.iter().all(|v| *v >= 0.0) && (own.iter().sum::<f32>() - 1.0).abs() < 1e-3;
            if is_likelihood {
                return Said(own.to_vec());
            }
            let most = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = own.iter().map(|v| (v - most).exp()).collect();
            let sum: f32 = powers.iter().sum();
            Said(powers.into_iter().map(|v| v / sum).collect())
        };
        all.chunks_exact(each).map(one).collect()
    }

    fn class(&self) -> usize {
        let pairs = self.0.iter().enumerate();
        pairs.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at)
    }

    /// How much less likely another class is than its own.
    fn lost(&self, class: usize) -> f64 {
        let likelihood = |class: usize| self.0.get(class).copied().unwrap_or(0.0);
        f64::from(likelihood(self.class()) - likelihood(class))
    }
}

/// Answers beside those without coding.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answers {
    pub all: usize,
    /// Whose first class is another.
    pub others: usize,
    /// Accuracy that is lost by that, in answers, if the network is right as often as it says.
    pub lost: f64,
}

impl Answers {
    fn add(&mut self, right: &Said, class: usize) {
        self.all += 1;
        self.others += usize::from(right.class() != class);
        self.lost += right.lost(class);
    }

    /// Part of the accuracy.
    pub fn loss(&self) -> f64 {
        self.lost / self.all.max(1) as f64
    }

    pub fn others(&self) -> f64 {
        self.others as f64 / self.all.max(1) as f64
    }
}

impl<'h> Search<'h> {
    pub fn new(
        here: &'h Here,
        image: &'h ImageInput,
        pictures: &'h Pictures,
        asked: Asked,
    ) -> anyhow::Result<Self> {
        let info = &here.entry.info;
        let largest = info.cuts.iter().map(Cut::bytes).max().unwrap_or(0).max(1);
        let most_held = (MEMORY / largest).max(1);
        let read = |first: usize, most: usize| -> anyhow::Result<Vec<Batch>> {
            let mut inputs = vec![];
            pictures.squares(first, asked.squares, most, |square| {
                inputs.push(Batch::new(vec![picture::tensor(square, image)?])?);
                Ok(())
            })?;
            anyhow::ensure!(!inputs.is_empty(), "no photograph can be used");
            Ok(inputs)
        };
        let (fit, held) = (read(0, MOST_FIT)?, read(1, most_held)?);
        let mut search = Search {
            here,
            image,
            pictures,
            asked,
            fit,
            most_held,
            held,
            said: vec![],
        };
        search.said = search.said_of(CutPoint(0), &search.held)?;
        anyhow::ensure!(
            search.said.len() == search.held.len() && search.said.iter().all(|said| said.0.len() > 1),
            "its first output is no list of numbers for classes: what a coding does to its answers can't be told"
        );
        Ok(search)
    }

    /// Requests that codings are held against.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn run(&self, range: StageRange, inputs: &[Batch]) -> anyhow::Result<Vec<Batch>> {
        let Here {
            engines,
            partition,
            model,
            ..
        } = self.here;
        let mut outputs = vec![];
        for some in inputs.chunks(BATCH) {
            let joined = Batch::join(some).ok_or_else(|| anyhow::anyhow!("inputs of different shapes"))?;
            let rows = engines.run(*partition, model.info().id, range, joined)?;
            outputs.extend((0..some.len()).filter_map(|row| rows.row(row)));
        }
        Ok(outputs)
    }

    fn said_of(&self, point: CutPoint, inputs: &[Batch]) -> anyhow::Result<Vec<Said>> {
        let Some(range) = self.here.entry.info.tail(point) else {
            return Ok(inputs.iter().flat_map(Said::of_all).collect());
        };
        Ok(self.run(range, inputs)?.iter().flat_map(Said::of_all).collect())
    }

    /// Whether so much may be lost of all answers that are held against: `times` as many other labels as are asked for.
    fn keeps(&self, answers: &Answers, times: f64) -> bool {
        let all = self.held.len() as f64;
        answers.lost <= self.asked.most_loss * all
            && answers.others as f64 <= times * self.asked.most_others * all
    }

    /// Codings for these cut points, ascending.
    pub fn run_all(&self, points: &[CutPoint]) -> anyhow::Result<Vec<Found>> {
        let info = &self.here.entry.info;
        let (mut fit, mut held) = (self.fit.clone(), self.held.clone());
        let (mut at, mut first, mut found) = (CutPoint(0), [FIRST; POWERS.len()], vec![]);
        for (number, &point) in points.iter().enumerate() {
            if let Some(range) = StageRange::new(at, point) {
                fit = self.run(range, &fit)?;
                held = self.run(range, &held)?;
                at = point;
            }
            let Some(cut) = info.cut(point) else { continue };
            let mut best: Option<Found> = None;
            for (power, first) in POWERS.iter().zip(&mut first) {
                let Some(step) = self.coarsest(point, cut, (&fit, &held), *power, *first)? else {
                    continue;
                };
                let Step {
                    number,
                    coding,
                    tried,
                } = step;
                let keeps = self.keeps(&tried.answers, 1.0);
                if keeps {
                    *first = number;
                }
                let is_better = |best: &Found| match (keeps, self.keeps(&best.answers, 1.0)) {
                    (true, true) => tried.bytes < best.coding.mean_bytes as usize,
                    (false, false) => tried.answers.others < best.answers.others,
                    (keeps, _) => keeps,
                };
                if best.as_ref().is_none_or(is_better) {
                    best = Some(Found {
                        point,
                        coding,
                        plain_bytes: cut.bytes_sent(DType::F32),
                        step: step_of(number),
                        answers: tried.answers,
                        encode_ms: tried.encode_ms,
                    });
                }
            }
            match best {
                Some(best) => {
                    eprintln!(
                        "{} of {}: cut point {point}: {} of {} bytes, {:.2}% lost, {} of {} labels others",
                        number + 1,
                        points.len(),
                        best.coding.mean_bytes,
                        best.plain_bytes,
                        100.0 * best.answers.loss(),
                        best.answers.others,
                        best.answers.all
                    );
                    found.push(best);
                }
                None => eprintln!(
                    "{} of {}: cut point {point}: no coding keeps the answers",
                    number + 1,
                    points.len()
                ),
            }
        }
        Ok(found)
    }

    /// The coarsest step at which no more answers are others than may be, beginning at a guess; where there is none, the one with the fewest.
    fn coarsest(
        &self,
        point: CutPoint,
        cut: &Cut,
        tensors: (&[Batch], &[Batch]),
        power: f32,
        first: usize,
    ) -> anyhow::Result<Option<Step>> {
        let one = |number: usize| -> anyhow::Result<Option<Step>> {
            let coarse = Coarseness {
                step: step_of(number),
                power,
            };
            // What is no finite number is not coded, and then nothing is at this cut point.
            let Some(mut coding) = self.coding(cut, tensors.0, coarse) else {
                return Ok(None);
            };
            let Some(tried) = self.try_out(point, cut, &coding, tensors.1)? else {
                return Ok(None);
            };
            coding.mean_bytes = u32::try_from(tried.bytes).unwrap_or(u32::MAX);
            Ok(Some(Step {
                number,
                coding,
                tried,
            }))
        };
        let Some(mut best) = one(first)? else {
            return Ok(None);
        };
        if self.keeps(&best.tried.answers, 1.0) {
            for coarser in (0..first).rev() {
                let Some(step) = one(coarser)? else { break };
                if !self.keeps(&step.tried.answers, 1.0) {
                    break;
                }
                best = step;
            }
            return Ok(Some(best));
        }
        for finer in first + 1..STEPS {
            let Some(step) = one(finer)? else { break };
            if self.keeps(&step.tried.answers, 1.0) {
                return Ok(Some(step));
            }
            if step.tried.answers.others < best.tried.answers.others
                || !self.keeps(&best.tried.answers, BEARABLE)
            {
                best = step;
            }
        }
        Ok(self.keeps(&best.tried.answers, BEARABLE).then_some(best))
    }

    fn coding(&self, cut: &Cut, tensors: &[Batch], coarse: Coarseness) -> Option<CutCoding> {
        let each = cut.tensors.iter().enumerate().map(|(at, spec)| {
            let samples: Vec<&[f32]> = tensors.iter().map(|request| floats(request, at)).collect();
            let (run, channels) = layout(&samples, &spec.shape);
            fit(&samples, run, channels, coarse).ok()
        });
        Some(CutCoding {
            tensors: each.collect::<Option<_>>()?,
            mean_bytes: 0,
        })
    }

    /// Codes and decodes requests and runs the rest, until it is clear that too many answers are others.
    fn try_out(
        &self,
        point: CutPoint,
        cut: &Cut,
        coding: &CutCoding,
        requests: &[Batch],
    ) -> anyhow::Result<Option<Tried>> {
        let (mut answers, mut bytes, mut seconds, mut count) = (Answers::default(), 0, 0.0, 0usize);
        let types = cut.types_sent(DType::F32);
        for (some, right) in requests.chunks(BATCH).zip(self.said.chunks(BATCH)) {
            let mut came = vec![];
            for request in some {
                let start = Instant::now();
                let Ok(sent) = coding.encode((0..cut.tensors.len()).map(|at| floats(request, at))) else {
                    return Ok(None);
                };
                seconds += start.elapsed().as_secs_f64();
                bytes += sent.len();
                count += 1;
                let decoded = coding.decode(&sent, cut.tensors.iter().map(|t| t.elements))?;
                let sent = Sent {
                    types: &types,
                    bytes: &decoded,
                };
                came.push(Batch::from_requests(cut, &[sent])?);
            }
            let found = self.said_of(point, &came)?;
            let pairs = right.iter().zip(&found);
            pairs.for_each(|(right, found)| answers.add(right, found.class()));
            if !self.keeps(&answers, BEARABLE) {
                break;
            }
        }
        let count = count.max(1);
        Ok(Some(Tried {
            answers,
            bytes: bytes.div_ceil(count),
            encode_ms: seconds * 1e3 / count as f64,
        }))
    }

    /// The same pictures as JPEGs of the size that the model sees.
    pub fn as_jpeg(&self) -> anyhow::Result<AsJpeg> {
        let (mut came, mut bytes, mut seconds) = (vec![], 0, 0.0);
        self.pictures
            .squares(1, self.asked.squares, self.most_held, |square| {
                let seen = picture::fitted(square, self.image);
                let start = Instant::now();
                let sent = picture::jpeg(&seen, JPEG_QUALITY)?;
                seconds += start.elapsed().as_secs_f64();
                bytes += sent.len();
                let tensor = picture::normalised(&picture::decode(&sent)?, self.image)?;
                came.push(Batch::new(vec![tensor])?);
                Ok(())
            })?;
        let found = self.said_of(CutPoint(0), &came)?;
        let mut answers = Answers::default();
        let pairs = self.said.iter().zip(&found);
        pairs.for_each(|(right, found)| answers.add(right, found.class()));
        let count = came.len().max(1);
        Ok(AsJpeg {
            quality: JPEG_QUALITY,
            bytes: bytes.div_ceil(count),
            answers,
            encode_ms: seconds * 1e3 / count as f64,
        })
    }
}

fn step_of(number: usize) -> f32 {
    2f32.powf(1.0 - number as f32 / 2.0)
}
