//! How often symbols come.

use std::sync::OnceLock;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use constriction::stream::model::{ContiguousCategoricalEntropyModel, ContiguousLookupDecoderModel};

/// Binary digits of frequencies.
pub(crate) const PRECISION: usize = 12;
/// Sum of a table's frequencies.
pub const WHOLE: u32 = 1 << PRECISION;
/// Symbols of a table at most.
pub const MOST_SYMBOLS: usize = 256;

pub(crate) type Encoding = ContiguousCategoricalEntropyModel<u16, Vec<u16>, PRECISION>;
pub(crate) type Decoding = ContiguousLookupDecoderModel<u16, Vec<u16>, Box<[u16]>, PRECISION>;

/// How often each symbol comes, of [`WHOLE`]; symbols are 0, 1, and so on. Two at least, and none never.
#[derive(Debug)]
pub struct Table {
    frequencies: Vec<u16>,
    encoding: Encoding,
    /// Larger by far, and of use only where something is decoded.
    decoding: OnceLock<Decoding>,
}

impl Table {
    /// `None`: the frequencies are not such.
    pub fn new(frequencies: Vec<u16>) -> Option<Self> {
        let sum: u32 = frequencies.iter().map(|f| u32::from(*f)).sum();
        let sound =
            (2..=MOST_SYMBOLS).contains(&frequencies.len()) && !frequencies.contains(&0) && sum == WHOLE;
        if !sound {
            return None;
        }
        let encoding = Encoding::from_nonzero_fixed_point_probabilities(&frequencies, false).ok()?;
        Some(Table {
            frequencies,
            encoding,
            decoding: OnceLock::new(),
        })
    }

    /// In proportion to counts; symbols that were not counted come rarely. At least two symbols, at most [`MOST_SYMBOLS`], are made of them.
    pub fn of_counts(counts: &[u64]) -> Option<Self> {
        let symbols = counts.len().clamp(2, MOST_SYMBOLS);
        let mut left = WHOLE - symbols as u32;
        let all: u64 = counts.iter().take(symbols).sum();
        let shared = left;
        let mut frequencies: Vec<u16> = (0..symbols)
            .map(|symbol| {
                let count = counts.get(symbol).copied().unwrap_or(0);
                let part = count as f64 / all.max(1) as f64 * f64::from(shared);
                left -= part as u32;
                1 + part as u16
            })
            .collect();
        // What rounding leaves is for the most frequent one.
        let most = (0..symbols).max_by_key(|symbol| frequencies[*symbol])?;
        frequencies[most] += left as u16;
        Table::new(frequencies)
    }

    /// Frequencies of the symbols.
    pub fn frequencies(&self) -> &[u16] {
        &self.frequencies
    }

    pub(crate) fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    pub(crate) fn decoding(&self) -> &Decoding {
        self.decoding
            .get_or_init(|| self.encoding.to_lookup_decoder_model())
    }
}

impl Clone for Table {
    fn clone(&self) -> Self {
        Table {
            frequencies: self.frequencies.clone(),
            encoding: self.encoding.clone(),
            decoding: OnceLock::new(),
        }
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.frequencies == other.frequencies
    }
}

impl Encode for Table {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.frequencies.encode(encoder)
    }
}

impl<C> Decode<C> for Table {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let frequencies = Vec::decode(decoder)?;
        Table::new(frequencies).ok_or(DecodeError::Other("frequencies don't make up a whole"))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Table {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}
