//! Entropy coding of symbols: range asymmetric numeral systems (Duda, "Asymmetric numeral systems", arXiv:1311.2540), as the crate
//! `constriction` has them. Symbols go to two coders in turn, which a processor runs at the same time.

use constriction::stream::stack::AnsCoder;
use constriction::stream::{Code, Decode, Encode};

use crate::table::Table;

type Coder = AnsCoder<u32, u64>;

/// Bytes before the words: the number of the first coder's.
const HEAD: usize = 4;
const WORD: usize = 4;

/// Symbols side by side of one table.
pub(crate) struct Run<'t> {
    pub table: &'t Table,
    pub length: usize,
}

/// Appends symbols in their tables, those of `runs` one after the other. `false`: a symbol is not in its table, and nothing was appended.
pub(crate) fn encode<'t>(
    symbols: &[u8],
    runs: impl DoubleEndedIterator<Item = Run<'t>>,
    out: &mut Vec<u8>,
) -> bool {
    let (mut even, mut odd) = (Coder::new(), Coder::new());
    let mut end = symbols.len();
    // What is encoded last is decoded first.
    for run in runs.rev() {
        let start = end.saturating_sub(run.length);
        let model = run.table.encoding().as_view();
        let (mut at, mut sound) = (end, true);
        let mut one =
            |coder: &mut Coder, symbol: u8| sound &= coder.encode_symbol(usize::from(symbol), model).is_ok();
        if at > start && at % 2 == 1 {
            at -= 1;
            one(&mut even, symbols[at]);
        }
        let first = start + start % 2;
        if let Some(pairs) = symbols.get(first..at) {
            for pair in pairs.as_chunks::<2>().0.iter().rev() {
                one(&mut odd, pair[1]);
                one(&mut even, pair[0]);
            }
            if first > start {
                one(&mut odd, symbols[start]);
            }
        }
        if !sound {
            return false;
        }
        end = start;
    }
    let words = |coder: Coder| coder.into_compressed().unwrap_or_default();
    let (even, odd) = (words(even), words(odd));
    out.extend_from_slice(&(even.len() as u32).to_le_bytes());
    out.extend(even.iter().chain(&odd).flat_map(|word| word.to_le_bytes()));
    true
}

/// The symbols that were encoded so. `false`: these bytes are not what [`encode`] makes.
pub(crate) fn decode<'t>(bytes: &[u8], runs: impl Iterator<Item = Run<'t>>, symbols: &mut [u8]) -> bool {
    coders(bytes)
        .and_then(|coders| decode_all(coders, runs, symbols))
        .is_some()
}

fn coders(bytes: &[u8]) -> Option<(Coder, Coder)> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let (words, tail) = rest.as_chunks::<WORD>();
    let split = u32::from_le_bytes(*head) as usize;
    if !tail.is_empty() || split > words.len() {
        return None;
    }
    let coder = |words: &[[u8; WORD]]| {
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        Coder::from_compressed(words).ok()
    };
    Some((coder(&words[..split])?, coder(&words[split..])?))
}

fn decode_all<'t>(
    (mut even, mut odd): (Coder, Coder),
    runs: impl Iterator<Item = Run<'t>>,
    symbols: &mut [u8],
) -> Option<()> {
    let mut start = 0;
    for run in runs {
        let model = run.table.decoding().as_view();
        let one = |coder: &mut Coder, symbol: &mut u8| {
            *symbol = coder.decode_symbol(model).unwrap_or(0) as u8;
        };
        let own = symbols.get_mut(start..start + run.length)?;
        let (first, own) = own.split_at_mut(start % 2 * usize::from(!own.is_empty()));
        first.iter_mut().for_each(|symbol| one(&mut odd, symbol));
        let (pairs, last) = own.as_chunks_mut::<2>();
        for pair in pairs {
            one(&mut even, &mut pair[0]);
            one(&mut odd, &mut pair[1]);
        }
        last.iter_mut().for_each(|symbol| one(&mut even, symbol));
        start += run.length;
    }
    // Nothing is left over where all of it was meant.
    (start == symbols.len() && even.decoder_maybe_exhausted::<12>() && odd.decoder_maybe_exhausted::<12>())
        .then_some(())
}
