//! A coding for tensors like some that a network gave.

use std::collections::BTreeSet;

use crate::coding::{Channel, Coding, Unsound};
use crate::table::{MOST_SYMBOLS, Table};

/// Tables of a coding at most: channels whose symbols come about as often have one together.
const TABLES: usize = 8;
/// Rounds in which channels are put to the table that suits them.
const ROUNDS: usize = 4;
/// Part of a channel's range by which values beyond it are let through.
const MARGIN: f32 = 0.05;
/// Least and largest step.
const STEPS: (f32, f32) = (1e-30, 1e30);
/// Deviations from the mean, at most, beyond which values are clipped where symbols are short.
const CLIPPED: f32 = 6.0;
/// How much farther than what was seen a channel's values may be, where symbols are left: parts of its range, and mean deviations.
const FARTHER: (f32, f32) = (2.0, 8.0);
/// A channel's deviation, at least, as a part of the mean one.
const LEAST_DEVIATION: f64 = 0.25;
/// Steps of a channel at most.
const MOST_STEPS: f32 = (MOST_SYMBOLS - 3) as f32;
/// Different values, and elements for each of them, from which on it may be said that they are evenly spaced.
const EVEN_FROM: usize = 16;

/// How coarse a coding is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coarseness {
    /// A channel's step, as a multiple of its elements' standard deviation.
    pub step: f32,
    /// Power of a channel's deviation in its step, where 1 - power is that of the mean over all: 1 takes all channels for equally important
    /// whatever their size, 0 takes a deviation of 1 for as important in all.
    pub power: f32,
}

/// What is known of a channel's elements.
#[derive(Debug, Clone)]
struct Moments {
    least: f32,
    most: f32,
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    const NONE: Moments = Moments {
        least: f32::INFINITY,
        most: f32::NEG_INFINITY,
        count: 0.0,
        sum: 0.0,
        squares: 0.0,
    };

    fn add(&mut self, elements: &[f32]) {
        for &element in elements {
            self.least = self.least.min(element);
            self.most = self.most.max(element);
            self.sum += f64::from(element);
            self.squares += f64::from(element) * f64::from(element);
        }
        self.count += elements.len() as f64;
    }

    fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        (self.squares / self.count - mean * mean).max(0.0)
    }

    /// The step, first value and largest symbol. `mean`: the deviation in the mean over all channels.
    fn steps(&self, wanted: f32, mean: f32) -> (f32, f32, u8) {
        let range = self.most - self.least;
        if range <= 0.0 && mean <= 0.0 {
            // One value everywhere: it is the first.
            let size = if self.least == 0.0 { 1.0 } else { self.least.abs() };
            return (size.clamp(STEPS.0, STEPS.1), self.least, 1);
        }
        // What a Relu leaves ends at zero; other ends may be farther out than was seen.
        let margin = |end: f32| if end == 0.0 { 0.0 } else { MARGIN * range };
        let (least, most) = (self.least - margin(self.least), self.most + margin(self.most));
        // A few that are far out are clipped for the others' sake.
        let widest = (most - least).min(2.0 * CLIPPED * self.variance().sqrt() as f32);
        let step = wanted.max(widest / MOST_STEPS).clamp(STEPS.0, STEPS.1);
        let window = MOST_STEPS * step;
        let middle = (self.sum / self.count) as f32;
        let least = least.max((middle - window / 2.0).min(most - window));
        // A channel that is rarely more than little may be for others: symbols that are left are for that.
        let left = (window - (most - least)).clamp(0.0, FARTHER.0 * range + FARTHER.1 * mean);
        let (least, most) = match self.least {
            0.0 => (least, most + left),
            _ => (least - left / 2.0, most + left / 2.0),
        };
        // Zero is exact where it is among the values.
        let low = (least / step).floor() * step;
        let top = ((most - low) / step).ceil().clamp(1.0, (MOST_SYMBOLS - 1) as f32);
        (step, low, top as u8)
    }
}

/// Different values of a channel, as long as they are few.
#[derive(Debug, Clone, Default)]
struct Values(Option<BTreeSet<u32>>);

impl Values {
    fn add(&mut self, elements: &[f32]) {
        let Some(values) = &mut self.0 else { return };
        for element in elements {
            // Zeros are equal.
            values.insert((element + 0.0).to_bits());
            if values.len() > MOST_SYMBOLS {
                self.0 = None;
                return;
            }
        }
    }

    /// The step and first value of those that are evenly spaced, such as a picture's.
    fn even(&self, count: f64) -> Option<(f32, f32, u8)> {
        let mut values: Vec<f32> = self
            .0
            .as_ref()?
            .iter()
            .map(|bits| f32::from_bits(*bits))
            .collect();
        values.sort_by(f32::total_cmp);
        if values.len() < EVEN_FROM || count < (EVEN_FROM * values.len()) as f64 {
            return None;
        }
        let (low, high) = (*values.first()?, *values.last()?);
        let gap = values
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .fold(f32::INFINITY, f32::min);
        let steps = ((high - low) / gap).round();
        let step = (high - low) / steps;
        let is_even = |value: &f32| (((value - low) / step).round() - (value - low) / step).abs() < 0.01;
        let sound = steps < MOST_SYMBOLS as f32 && (STEPS.0..=STEPS.1).contains(&step);
        (sound && values.iter().all(is_even)).then_some((step, low, steps as u8))
    }
}

/// A coding for tensors like these, each of whole runs of `channels` channels with `run` elements side by side. `Err`: there are none, or
/// they are no finite numbers.
pub fn fit(tensors: &[&[f32]], run: usize, channels: usize, coarse: Coarseness) -> Result<Coding, Unsound> {
    let unfit = |what: &str| Unsound(what.to_owned());
    let whole = run.saturating_mul(channels);
    if whole == 0
        || tensors.is_empty()
        || tensors
            .iter()
            .any(|t| t.is_empty() || !t.len().is_multiple_of(whole))
    {
        return Err(unfit("tensors are not of whole channels"));
    }
    if tensors.iter().any(|t| t.iter().any(|e| !e.is_finite())) {
        return Err(unfit("some elements are no finite numbers"));
    }
    let of_channels = |tensor: &&[f32], each: &mut dyn FnMut(usize, &[f32])| {
        tensor
            .chunks_exact(run)
            .enumerate()
            .for_each(|(at, own)| each(at % channels, own));
    };
    let mut moments = vec![Moments::NONE; channels];
    let mut values = vec![Values(Some(BTreeSet::new())); channels];
    for tensor in tensors {
        of_channels(tensor, &mut |channel, own| {
            moments[channel].add(own);
            values[channel].add(own);
        });
    }
    let mean = (moments.iter().map(Moments::variance).sum::<f64>() / channels as f64).sqrt();
    let power = f64::from(coarse.power);
    let mut found: Vec<Channel> = moments
        .iter()
        .zip(&values)
        .map(|(moments, values)| {
            let own = moments.variance().sqrt().max(LEAST_DEVIATION * mean);
            let deviation = own.powf(power) * mean.powf(1.0 - power);
            let wanted = coarse.step * deviation as f32;
            let even = values.even(moments.count).filter(|(step, ..)| *step >= wanted);
            let (step, low, top) = even.unwrap_or_else(|| moments.steps(wanted, mean as f32));
            Channel {
                step,
                low,
                top,
                table: 0,
            }
        })
        .collect();
    let mut counts: Vec<Vec<u64>> = found.iter().map(|c| vec![0; usize::from(c.top) + 1]).collect();
    let mut symbols = vec![];
    for tensor in tensors {
        of_channels(tensor, &mut |channel, own| {
            symbols.clear();
            // They are finite.
            let _all = found[channel].round(own, &mut symbols);
            symbols.iter().for_each(|s| counts[channel][usize::from(*s)] += 1);
        });
    }
    let (of_channel, tables) = tables(&counts).ok_or_else(|| unfit("symbols that no table holds"))?;
    for (channel, table) in found.iter_mut().zip(of_channel) {
        channel.table = table;
    }
    Coding::new(run, found, tables)
}

/// Which elements of a tensor of this shape belong together: how many side by side, and to how many channels. Channels are the first or
/// the last dimension, whichever tells more of the elements' sizes: by the coding gain (Jayant and Noll, "Digital Coding of Waveforms",
/// 1984), where the mean deviation is that of the elements' logarithms.
pub fn layout(tensors: &[&[f32]], shape: &[usize]) -> (usize, usize) {
    let elements: usize = shape.iter().product();
    let (Some(&first), Some(&last)) = (shape.first(), shape.last()) else {
        return (1, 1);
    };
    if shape.len() == 1 || elements == 0 {
        return (1, elements.max(1));
    }
    let spread = |run: usize, channels: usize| -> f64 {
        let mut moments = vec![Moments::NONE; channels];
        for tensor in tensors {
            let runs = tensor.chunks_exact(run).enumerate();
            runs.for_each(|(at, own)| moments[at % channels].add(own));
        }
        let logarithms = moments.iter().map(|m| m.variance().max(f64::MIN_POSITIVE).ln());
        logarithms.sum::<f64>() / channels as f64
    };
    let (by_first, by_last) = ((elements / first, first), (1, last));
    match spread(by_first.0, by_first.1) <= spread(by_last.0, by_last.1) {
        true => by_first,
        false => by_last,
    }
}

/// Binary digits that a channel's symbols take with a table. Infinite: it has not all of them.
fn bits(counts: &[u64], table: &Table) -> f64 {
    let frequencies = table.frequencies();
    if frequencies.len() < counts.len() {
        return f64::INFINITY;
    }
    let whole = f64::from(crate::WHOLE);
    let each = counts.iter().zip(frequencies);
    each.map(|(count, frequency)| *count as f64 * (whole / f64::from(*frequency)).log2())
        .sum()
}

/// Tables for channels whose symbols were counted, and which is whose: as in k-means (Lloyd, 1982), channels go to the table with which they
/// take the fewest bits, and tables become what their channels' symbols are.
fn tables(counts: &[Vec<u64>]) -> Option<(Vec<u8>, Vec<Table>)> {
    let entropy = |counts: &Vec<u64>| Table::of_counts(counts).map_or(0.0, |own| bits(counts, &own));
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by(|a, b| entropy(&counts[*a]).total_cmp(&entropy(&counts[*b])));
    let groups = TABLES.min(counts.len());
    let mut whose = vec![0; counts.len()];
    for (place, channel) in order.into_iter().enumerate() {
        whose[channel] = place * groups / counts.len();
    }
    let make = |whose: &[usize]| -> Option<Vec<Table>> {
        let one = |group: usize| {
            let mut sum: Vec<u64> = vec![];
            for own in whose
                .iter()
                .zip(counts)
                .filter(|(of, _)| **of == group)
                .map(|(_, c)| c)
            {
                sum.resize(sum.len().max(own.len()), 0);
                sum.iter_mut().zip(own).for_each(|(sum, count)| *sum += count);
            }
            Table::of_counts(&sum)
        };
        (0..groups).map(one).collect()
    };
    let mut made = make(&whose)?;
    for _ in 0..ROUNDS {
        for (of, own) in whose.iter_mut().zip(counts) {
            let best = (0..groups).min_by(|a, b| bits(own, &made[*a]).total_cmp(&bits(own, &made[*b])));
            *of = best.unwrap_or(*of);
        }
        made = make(&whose)?;
    }
    let whose = whose
        .iter()
        .map(|group| u8::try_from(*group).ok())
        .collect::<Option<_>>()?;
    Some((whose, made))
}
