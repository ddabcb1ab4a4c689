//! Changes an ONNX file's bytes in few places, and leaves the rest as it is.
//!
//! What onnxruntime writes uses more of the format than our reader knows, so the messages are not parsed and written
//! again: fields are copied, but for the initialisers of the main graph.
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>; field numbers: onnx.proto3.

use crate::framing::{MessageError, varint};

/// `ModelProto.graph`.
const GRAPH: u64 = 7;
/// `GraphProto.name`.
const GRAPH_NAME: u64 = 2;
/// `GraphProto.initializer`.
const INITIALIZER: u64 = 5;
/// `GraphProto.output`.
const OUTPUT: u64 = 12;
/// Name in `ValueInfoProto`.
const VALUE_NAME: u64 = 1;
/// Fields of `TensorProto`.
const DIMS: u64 = 1;
const DATA_TYPE: u64 = 2;
const NAME: u64 = 8;
const RAW_DATA: u64 = 9;
const EXTERNAL_DATA: u64 = 13;
const DATA_LOCATION: u64 = 14;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// Wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// An initialiser's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initializer<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<i64>,
    /// Element type, as a number of `TensorProto.DataType`.
    pub data_type: i32,
    /// Its elements, little-endian, if they are stored so and here.
    pub raw: &'a [u8],
    /// Keys and values that say where the elements are, if they are in another file.
    pub elsewhere: Vec<(String, String)>,
}

/// One field of a message.
struct Field<'a> {
    number: u64,
    wire: u64,
    /// Value, if the field is a number.
    value: u64,
    /// Content, if it is anything else.
    bytes: &'a [u8],
    /// The field with its tag, as it stands in the message.
    whole: &'a [u8],
}

/// The file with its main graph as `edit` makes it. `Err`: the bytes are no messages.
fn with_graph(
    model: &[u8],
    mut edit: impl FnMut(&[u8]) -> Result<Vec<u8>, MessageError>,
) -> Result<Vec<u8>, MessageError> {
    let mut out = Vec::with_capacity(model.len());
    for field in fields(model)? {
        if field.number == GRAPH && field.wire == BYTES {
            put_bytes(&mut out, GRAPH, &edit(field.bytes)?);
        } else {
            out.extend_from_slice(field.whole);
        }
    }
    Ok(out)
}

/// The file with the initialisers for which `take` says `true` made external: in `file`, at its beginning. `Err`: the
/// bytes are no messages.
pub fn take_out(
    model: &[u8],
    file: &str,
    mut take: impl FnMut(Initializer<'_>) -> bool,
) -> Result<Vec<u8>, MessageError> {
    with_graph(model, |bytes| {
        let mut graph = vec![];
        for field in fields(bytes)? {
            if field.number == INITIALIZER && field.wire == BYTES {
                let tensor = initializer(field.bytes)?;
                let described = elsewhere(&tensor, file);
                if take(tensor) {
                    put_bytes(&mut graph, INITIALIZER, &described);
                    continue;
                }
            }
            graph.extend_from_slice(field.whole);
        }
        Ok(graph)
    })
}

/// The file with more tensors of its main graph as outputs; those that are outputs already stay as they are. `Err`: the
/// bytes are no messages.
pub fn with_outputs<'n>(
    model: &[u8],
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<Vec<u8>, MessageError> {
    with_graph(model, |bytes| {
        let mut known = vec![];
        for field in fields(bytes)?.iter().filter(|f| f.number == OUTPUT) {
            let parts = fields(field.bytes)?;
            known.extend(
                parts
                    .iter()
                    .filter(|p| p.number == VALUE_NAME)
                    .map(|p| text(p.bytes)),
            );
        }
        let mut graph = bytes.to_vec();
        for name in names.clone().filter(|n| !known.iter().any(|k| k == n)) {
            let mut value = vec![];
            put_bytes(&mut value, VALUE_NAME, name.as_bytes());
            put_bytes(&mut graph, OUTPUT, &value);
        }
        Ok(graph)
    })
}

/// The file with a name for its main graph, as the standard demands. `Err`: the bytes are no messages.
pub fn with_graph_name(model: &[u8], name: &str) -> Result<Vec<u8>, MessageError> {
    with_graph(model, |bytes| {
        let mut graph = vec![];
        put_bytes(&mut graph, GRAPH_NAME, name.as_bytes());
        graph.extend_from_slice(bytes);
        Ok(graph)
    })
}

fn initializer(bytes: &[u8]) -> Result<Initializer<'_>, MessageError> {
    let mut tensor = Initializer::default();
    for field in fields(bytes)? {
        match (field.number, field.wire) {
            (DIMS, VARINT) => tensor.dims.push(field.value as i64),
            (DIMS, BYTES) => {
                let mut at = 0;
                while at < field.bytes.len() {
                    let start = at;
                    let dim = varint(field.bytes, &mut at).ok_or(MessageError::Number(start))?;
                    tensor.dims.push(dim as i64);
                }
            }
            (DATA_TYPE, VARINT) => tensor.data_type = field.value as i32,
            (NAME, BYTES) => tensor.name = text(field.bytes),
            (RAW_DATA, BYTES) => tensor.raw = field.bytes,
            (EXTERNAL_DATA, BYTES) => {
                let (mut key, mut value) = (String::new(), String::new());
                for part in fields(field.bytes)? {
                    match part.number {
                        1 => key = text(part.bytes),
                        2 => value = text(part.bytes),
                        _ => {}
                    }
                }
                tensor.elsewhere.push((key, value));
            }
            _ => {}
        }
    }
    Ok(tensor)
}

/// The tensor's message without its elements.
fn elsewhere(tensor: &Initializer<'_>, file: &str) -> Vec<u8> {
    let mut out = vec![];
    for &dim in &tensor.dims {
        put_number(&mut out, DIMS, dim as u64);
    }
    put_number(&mut out, DATA_TYPE, tensor.data_type as u64);
    put_bytes(&mut out, NAME, tensor.name.as_bytes());
    for (key, value) in [("location", file), ("offset", "0")] {
        let mut entry = vec![];
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        put_bytes(&mut out, EXTERNAL_DATA, &entry);
    }
    put_number(&mut out, DATA_LOCATION, EXTERNAL);
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, MessageError> {
    let mut found = vec![];
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let number_at = |at: &mut usize| varint(bytes, at).ok_or(MessageError::Number(start));
        let tag = number_at(&mut at)?;
        let (number, wire) = (tag >> 3, tag & 7);
        let mut value = 0;
        let length = match wire {
            VARINT => {
                value = number_at(&mut at)?;
                0
            }
            FIXED_64 => 8,
            BYTES => number_at(&mut at)?,
            FIXED_32 => 4,
            _ => return Err(MessageError::WireType { wire, at: start }),
        };
        let end = usize::try_from(length).ok().and_then(|n| at.checked_add(n));
        let end = end.filter(|&e| e <= bytes.len());
        let end = end.ok_or(MessageError::Beyond(start))?;
        found.push(Field {
            number,
            wire,
            value,
            bytes: &bytes[at..end],
            whole: &bytes[start..end],
        });
        at = end;
    }
    Ok(found)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3 | VARINT);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model with two initialisers: `w` of 2 × 3 floats, `b` of 3.
    fn model() -> Vec<u8> {
        let tensor = |name: &str, dims: &[u64], raw: &[u8]| {
            let mut t = vec![];
            dims.iter().for_each(|&d| put_number(&mut t, DIMS, d));
            put_number(&mut t, DATA_TYPE, 1);
            put_bytes(&mut t, NAME, name.as_bytes());
            put_bytes(&mut t, RAW_DATA, raw);
            t
        };
        let mut graph = vec![];
        put_bytes(&mut graph, 1, b"\x22\x04Relu");
        put_bytes(&mut graph, INITIALIZER, &tensor("w", &[2, 3], &[1; 24]));
        put_bytes(&mut graph, INITIALIZER, &tensor("b", &[3], &[2; 12]));
        put_bytes(&mut graph, 99, b"of a later version");
        let mut model = vec![];
        put_number(&mut model, 1, 8);
        put_bytes(&mut model, GRAPH, &graph);
        put_bytes(&mut model, 25, b"a function");
        model
    }

    #[test]
    fn what_is_taken_is_described_and_all_else_stays() {
        let model = model();
        assert_eq!(take_out(&model, "f", |_| false).unwrap(), model);

        let mut seen = vec![];
        let out = take_out(&model, "f", |t| {
            seen.push((t.name.clone(), t.dims.clone(), t.raw.len()));
            t.name == "w"
        });
        let out = out.unwrap();
        assert_eq!(
            seen,
            [("w".to_owned(), vec![2, 3], 24), ("b".to_owned(), vec![3], 12)]
        );
        assert!(out.len() < model.len() + 24);

        let mut again = vec![];
        take_out(&out, "f", |t| {
            again.push((t.name.clone(), t.dims.clone(), t.raw.len(), t.elsewhere));
            false
        })
        .unwrap();
        let place = vec![
            ("location".to_owned(), "f".to_owned()),
            ("offset".to_owned(), "0".to_owned()),
        ];
        assert_eq!(again[0], ("w".to_owned(), vec![2, 3], 0, place));
        assert_eq!(again[1], ("b".to_owned(), vec![3], 12, vec![]));
        assert!(out.windows(10).any(|w| w == b"a function"));
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let model = model();
        for end in 1..model.len() {
            // A message may end between two fields.
            let _ = take_out(&model[..end], "f", |_| true);
        }
        assert!(take_out(&[0x3a, 0xff, 0xff, 0x03], "f", |_| true).is_err());
    }
}
