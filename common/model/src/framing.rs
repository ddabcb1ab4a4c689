//! Checks that a file's protobuf messages nest properly before the parser sees them.
//!
//! rten-onnx 0.27 trusts a field's length when it skips the field: a damaged length can send it back in the
//! file, for ever; and a list of numbers whose last one goes beyond the list is read on and on. So every length is held
//! against what encloses it first, and lists of numbers against their lengths.
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>; field numbers: onnx.proto3.

/// What is wrong with bytes that should be protobuf messages. Places are those of fields, and count from the first byte of what
/// was looked at: the file, or one message of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Messages stand in one another too deep.
    #[error("messages nest deeper than {MAX_DEPTH} at byte {0}")]
    TooDeep(usize),
    /// A number ends too early, or not at all.
    #[error("a number is cut off or too long at byte {0}")]
    Number(usize),
    /// A field is longer than its message.
    #[error("a field goes beyond what encloses it at byte {0}")]
    Beyond(usize),
    /// A field's encoding is none of protobuf's.
    #[error("a field has the unknown wire type {wire} at byte {at}")]
    WireType {
        /// The wire type.
        wire: u64,
        /// The field's first byte.
        at: usize,
    },
}

/// Messages whose fields are looked into.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    Shape,
    Flat,
}

impl Message {
    fn inner(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::Model, 7) => Message::Graph,
            (Message::Model, 8 | 14) => Message::Flat,
            (Message::Graph, 1) => Message::Node,
            (Message::Graph, 5) => Message::Tensor,
            (Message::Graph, 11..=13) => Message::ValueInfo,
            (Message::Node, 5) => Message::Attribute,
            (Message::Attribute, 5) => Message::Tensor,
            (Message::Attribute, 6) => Message::Graph,
            (Message::Tensor, 13) => Message::Flat,
            (Message::ValueInfo, 2) => Message::Type,
            (Message::Type, 1) => Message::TensorType,
            (Message::Type, 4) => Message::SequenceType,
            (Message::SequenceType, 1) => Message::Type,
            (Message::TensorType, 2) => Message::Shape,
            (Message::Shape, 1) => Message::Flat,
            _ => return None,
        })
    }
}

/// Numbers that stand in one field, one after the other.
#[derive(Clone, Copy)]
enum Packed {
    /// Of seven bits a byte.
    Varints,
    /// Of so many bytes each.
    Bytes(usize),
}

impl Message {
    fn packed(self, field: u64) -> Option<Packed> {
        Some(match (self, field) {
            (Message::Tensor, 1 | 5 | 7 | 11) | (Message::Attribute, 8) => Packed::Varints,
            (Message::Tensor, 4) | (Message::Attribute, 7) => Packed::Bytes(4),
            (Message::Tensor, 10) => Packed::Bytes(8),
            _ => return None,
        })
    }
}

/// Checks that a list of numbers ends where its field does.
fn numbers(bytes: &[u8], base: usize, packed: Packed) -> Result<(), MessageError> {
    match packed {
        Packed::Bytes(each) if !bytes.len().is_multiple_of(each) => Err(MessageError::Number(base)),
        Packed::Bytes(_) => Ok(()),
        Packed::Varints => {
            let mut at = 0;
            while at < bytes.len() {
                let start = base + at;
                varint(bytes, &mut at).ok_or(MessageError::Number(start))?;
            }
            Ok(())
        }
    }
}

/// Deepest nesting of messages that is accepted.
const MAX_DEPTH: usize = 32;

/// Checks a model file. `Err` says where the nesting is broken.
pub(crate) fn check(bytes: &[u8]) -> Result<(), MessageError> {
    message(bytes, 0, Message::Model, 0)
}

/// Checks a file that is one tensor.
pub(crate) fn check_tensor(bytes: &[u8]) -> Result<(), MessageError> {
    message(bytes, 0, Message::Tensor, 0)
}

fn message(bytes: &[u8], base: usize, kind: Message, depth: usize) -> Result<(), MessageError> {
    if depth > MAX_DEPTH {
        return Err(MessageError::TooDeep(base));
    }
    let mut at = 0;
    while at < bytes.len() {
        let start = base + at;
        let number = |at: &mut usize| varint(bytes, at).ok_or(MessageError::Number(start));
        let tag = number(&mut at)?;
        let (field, wire) = (tag >> 3, tag & 7);
        let length = match wire {
            0 => {
                number(&mut at)?;
                0
            }
            1 => 8,
            2 => number(&mut at)?,
            5 => 4,
            _ => return Err(MessageError::WireType { wire, at: start }),
        };
        let end = usize::try_from(length)
            .ok()
            .and_then(|n| at.checked_add(n))
            .filter(|&end| end <= bytes.len())
            .ok_or(MessageError::Beyond(start))?;
        if wire == 2
            && let Some(inner) = kind.inner(field)
        {
            message(&bytes[at..end], base + at, inner, depth + 1)?;
        }
        if wire == 2
            && let Some(packed) = kind.packed(field)
        {
            numbers(&bytes[at..end], base + at, packed)?;
        }
        at = end;
    }
    Ok(())
}

/// A number of at most ten bytes, seven bits in each, from `at` on. `None`: it is cut off, or longer.
pub(crate) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
