//! How the tensors of a cut point are coded.

use bincode::{Decode, Encode};

use crate::code::{self, Run};
use crate::table::{MOST_SYMBOLS, Table};

/// Bytes before a tensor's: how many there are, and whether they are entropy-coded.
const HEAD: usize = 5;
/// How a tensor's symbols follow: a byte each.
const PLAIN: u8 = 0;
/// As `code` has them.
const ENTROPY: u8 = 1;
/// Elements whose symbols are found before it is looked at whether all were numbers.
const BLOCK: usize = 4096;
/// Smallest and largest step: products with 256 symbols stay finite, and quotients too.
const STEPS: std::ops::RangeInclusive<f32> = 1e-30..=1e30;
/// Distance from zero at most.
const FARTHEST: f32 = 1e35;

/// How the elements of one channel are rounded and clipped: symbol `s` stands for `low + s * step`.
#[derive(Debug, Clone, Copy, PartialEq, Encode, Decode)]
pub struct Channel {
    /// From one value to the next.
    pub step: f32,
    /// The least value.
    pub low: f32,
    /// The largest symbol: there is one for the least value and each step above it.
    pub top: u8,
    /// The table of its symbols.
    pub table: u8,
}

/// How one tensor is coded. Its elements in row-major order belong to the channels in turn, `run` elements to each.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Coding {
    run: u32,
    channels: Vec<Channel>,
    tables: Vec<Table>,
}

/// A coding that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsound(pub(crate) String);

/// Elements that can't be coded: some are no finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("some elements are no finite numbers, which travel as they are")]
pub struct NotCoded;

/// Bytes that are no coded tensors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("coded tensors are damaged: {0}")]
pub struct Damaged(&'static str);

impl Coding {
    /// Of these channels; `run`: elements side by side that belong to one.
    pub fn new(run: usize, channels: Vec<Channel>, tables: Vec<Table>) -> Result<Self, Unsound> {
        let run = u32::try_from(run).map_err(|_| Unsound(format!("{run} elements side by side")))?;
        let coding = Coding {
            run,
            channels,
            tables,
        };
        coding.check()?;
        Ok(coding)
    }

    pub(crate) fn check(&self) -> Result<(), Unsound> {
        if self.run == 0 || self.channels.is_empty() {
            return Err(Unsound("a coding without channels".to_owned()));
        }
        for (number, channel) in self.channels.iter().enumerate() {
            let Channel {
                step,
                low,
                top,
                table,
            } = *channel;
            let symbols = self
                .tables
                .get(usize::from(table))
                .map_or(0, |t| t.frequencies().len());
            if !STEPS.contains(&step) || low.is_nan() || low.abs() > FARTHEST || usize::from(top) >= symbols {
                return Err(Unsound(format!(
                    "channel {number} has a step of {step}, begins at {low}, and has {top} as its largest symbol of {symbols}"
                )));
            }
        }
        Ok(())
    }

    /// Whether a tensor of so many elements is of whole runs of all channels.
    pub fn fits(&self, elements: usize) -> bool {
        let whole = (self.run as usize).checked_mul(self.channels.len());
        whole.is_some_and(|whole| elements > 0 && elements.is_multiple_of(whole))
    }

    /// The channels.
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Bytes of so many elements at most.
    pub fn most_bytes(elements: usize) -> usize {
        elements.saturating_add(HEAD)
    }

    fn runs(&self, elements: usize) -> impl DoubleEndedIterator<Item = (&Channel, Run<'_>)> {
        let length = self.run as usize;
        let channels = &self.channels;
        (0..elements / length).map(move |at| {
            let channel = &channels[at % channels.len()];
            let table = &self.tables[usize::from(channel.table)];
            (channel, Run { table, length })
        })
    }

    /// Appends a tensor's elements, which must fit.
    fn encode(&self, elements: &[f32], symbols: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), NotCoded> {
        symbols.clear();
        symbols.reserve(elements.len());
        for (own, (channel, _)) in elements
            .chunks_exact(self.run as usize)
            .zip(self.runs(elements.len()))
        {
            channel.round(own, symbols)?;
        }
        let start = out.len();
        out.reserve(elements.len() / 2 + HEAD);
        out.extend_from_slice(&[0; HEAD]);
        let tables = self.runs(elements.len()).map(|(_, run)| run);
        let shorter =
            code::encode(symbols, tables, out) && out.len() - start <= Self::most_bytes(symbols.len());
        let how = match shorter {
            true => ENTROPY,
            false => {
                out.truncate(start + HEAD);
                out.extend_from_slice(symbols);
                PLAIN
            }
        };
        let length = (out.len() - start - HEAD) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4] = how;
        Ok(())
    }

    /// Appends a tensor's elements as bytes of 32-bit floats, and gives what comes after it.
    fn decode<'b>(&self, bytes: &'b [u8], elements: usize, out: &mut Vec<u8>) -> Result<&'b [u8], Damaged> {
        let cut_off = Damaged("they are cut off");
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(cut_off.clone())?;
        let [a, b, c, d, how] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let (own, rest) = rest.split_at_checked(length).ok_or(cut_off)?;
        let mut decoded = vec![];
        let symbols = match how {
            PLAIN if own.len() == elements => own,
            ENTROPY if own.len() <= elements => {
                decoded = vec![0; elements];
                if !code::decode(own, self.runs(elements).map(|(_, run)| run), &mut decoded) {
                    return Err(Damaged("their bytes are no symbols of the model's tables"));
                }
                &decoded
            }
            _ => return Err(Damaged("a tensor's length is none that it can have")),
        };
        for (own, (channel, _)) in symbols.chunks_exact(self.run as usize).zip(self.runs(elements)) {
            let Channel { step, low, top, .. } = *channel;
            if own.iter().any(|symbol| *symbol > top) {
                return Err(Damaged("a symbol is above its channel's largest"));
            }
            let value = |symbol: &u8| (f32::from(*symbol) * step + low).to_le_bytes();
            out.extend(own.iter().flat_map(value));
        }
        drop(decoded);
        Ok(rest)
    }
}

impl Channel {
    /// Appends the symbols of elements.
    pub(crate) fn round(self, elements: &[f32], symbols: &mut Vec<u8>) -> Result<(), NotCoded> {
        let (inverse, low, top) = (self.step.recip(), self.low, f32::from(self.top));
        for block in elements.chunks(BLOCK) {
            let finite = block.iter().fold(true, |all, element| all & element.is_finite());
            if !finite {
                return Err(NotCoded);
            }
            // Floats of 2^23 and a little have an integer in their last digits, rounded.
            symbols.extend(block.iter().map(|element| {
                let symbol = ((element - low) * inverse).max(0.0).min(top);
                (symbol + 8_388_608.0).to_bits() as u8
            }));
        }
        Ok(())
    }
}

/// How the tensors of a cut point are coded, all of 32-bit floats.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct CutCoding {
    /// Of each tensor, in the cut point's order.
    pub tensors: Vec<Coding>,
    /// Bytes of a request, in the mean of those that it was made from.
    pub mean_bytes: u32,
}

impl CutCoding {
    /// Bytes of a request whose tensors have so many elements: at least, at most.
    pub fn bytes(elements: impl Iterator<Item = usize>) -> (usize, usize) {
        elements.fold((0, 0), |(least, most), elements| {
            let most = usize::saturating_add(most, Coding::most_bytes(elements));
            (least + HEAD, most)
        })
    }

    /// A request's tensors, coded. Each must have as many elements as its coding is for.
    pub fn encode<'t>(&self, tensors: impl Iterator<Item = &'t [f32]>) -> Result<Vec<u8>, NotCoded> {
        let mut out = vec![];
        let mut symbols = vec![];
        for (coding, elements) in self.tensors.iter().zip(tensors) {
            coding.encode(elements, &mut symbols, &mut out)?;
        }
        Ok(out)
    }

    /// The tensors' elements as bytes of 32-bit floats, one tensor after the other; `elements`: how many each has.
    pub fn decode(&self, bytes: &[u8], elements: impl Iterator<Item = usize>) -> Result<Vec<u8>, Damaged> {
        let elements: Vec<usize> = elements.collect();
        // No more than that: whoever waits for it has counted it so.
        let mut out = Vec::with_capacity(elements.iter().sum::<usize>() * size_of::<f32>());
        let mut rest = bytes;
        for (coding, elements) in self.tensors.iter().zip(elements) {
            rest = coding.decode(rest, elements, &mut out)?;
        }
        match rest {
            [] => Ok(out),
            _ => Err(Damaged("bytes are left over")),
        }
    }
}

const _: () = assert!(MOST_SYMBOLS == 1 << u8::BITS);
