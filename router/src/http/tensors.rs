//! Tensors of the Open Inference Protocol: names of element types, JSON and binary data.

use graft_model::DType;
use graft_wire::{Refused, Status, WireType};
use serde_json::Value;

/// The protocol's name of an element type.
pub(super) fn datatype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FP32",
        DType::F16 => "FP16",
        DType::F64 => "FP64",
        DType::I32 => "INT32",
        DType::I64 => "INT64",
        DType::I8 => "INT8",
        DType::U8 => "UINT8",
        DType::Bool => "BOOL",
    }
}

/// How elements of a protocol's type travel. `None`: they don't.
pub(super) fn wire_type(datatype: &str) -> Option<WireType> {
    Some(match datatype {
        "FP32" => WireType::F32,
        "FP16" => WireType::F16,
        "INT32" => WireType::I32,
        "INT64" => WireType::I64,
        "UINT8" => WireType::U8,
        "INT8" => WireType::I8,
        "BOOL" => WireType::Bool,
        _ => return None,
    })
}

fn bad(what: impl Into<String>) -> Refused {
    Refused::new(Status::BadRequest, what)
}

/// JSON data, nested or flat, as little-endian bytes.
pub(super) fn from_json(data: &Value, dtype: WireType) -> Result<Vec<u8>, Refused> {
    let mut out = vec![];
    flatten(data, dtype, &mut out)?;
    Ok(out)
}

fn flatten(data: &Value, dtype: WireType, out: &mut Vec<u8>) -> Result<(), Refused> {
    match data {
        Value::Array(list) => list.iter().try_for_each(|item| flatten(item, dtype, out)),
        Value::Bool(value) if dtype == WireType::Bool => {
            out.push(u8::from(*value));
            Ok(())
        }
        // JSON has no such numbers; clients that send them write them as text.
        Value::String(text) if dtype == WireType::F32 => {
            let value = match text.as_str() {
                "NaN" => f32::NAN,
                "Infinity" => f32::INFINITY,
                "-Infinity" => f32::NEG_INFINITY,
                other => return Err(bad(format!("{other:?} is no number"))),
            };
            out.extend(value.to_le_bytes());
            Ok(())
        }
        Value::Number(number) => {
            let integer = || {
                number
                    .as_i64()
                    .ok_or_else(|| bad(format!("{number} is no integer")))
            };
            match dtype {
                WireType::F32 => {
                    let value = number.as_f64().unwrap_or(f64::NAN) as f32;
                    out.extend(value.to_le_bytes());
                }
                WireType::I64 => out.extend(integer()?.to_le_bytes()),
                WireType::I32 => {
                    let value = i32::try_from(integer()?)
                        .map_err(|_| bad(format!("{number} does not fit 32 bits")))?;
                    out.extend(value.to_le_bytes());
                }
                WireType::U8 => {
                    let value = u8::try_from(integer()?)
                        .map_err(|_| bad(format!("{number} does not fit 8 bits without a sign")))?;
                    out.push(value);
                }
                WireType::I8 => {
                    let value =
                        i8::try_from(integer()?).map_err(|_| bad(format!("{number} does not fit 8 bits")))?;
                    out.extend(value.to_le_bytes());
                }
                WireType::Bool => out.push(u8::from(integer()? != 0)),
                WireType::F16 => return Err(bad("FP16 travels as binary data only")),
            }
            Ok(())
        }
        _ => Err(bad("data must be numbers, in arrays or nested arrays")),
    }
}

/// JSON as many clients write it: `NaN`, `Infinity` and `-Infinity` as bare words, which are put in quotes.
/// `None`: there are none.
pub(super) fn quoted(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() + json.len() / 8);
    let (mut rest, mut within, mut found) = (json, false, false);
    while let [byte, tail @ ..] = rest {
        let word = [&b"NaN"[..], b"Infinity", b"-Infinity"]
            .into_iter()
            .find(|word| !within && rest.starts_with(word));
        if let Some(word) = word {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            (rest, found) = (&rest[word.len()..], true);
            continue;
        }
        out.push(*byte);
        rest = tail;
        match byte {
            b'"' => within = !within,
            b'\\' if within => {
                if let [escaped, tail @ ..] = rest {
                    out.push(*escaped);
                    rest = tail;
                }
            }
            _ => {}
        }
    }
    found.then_some(out)
}

/// Little-endian bytes as JSON numbers. NaN and infinities, which JSON has not, become null.
pub(super) fn to_json(bytes: &[u8], dtype: WireType) -> Value {
    let words = bytes.as_chunks::<4>().0.iter();
    match dtype {
        WireType::I64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&w| Value::from(i64::from_le_bytes(w)))
            .collect(),
        WireType::Bool => bytes.iter().map(|&b| Value::from(b != 0)).collect(),
        WireType::U8 => bytes.iter().map(|&b| Value::from(b)).collect(),
        WireType::I8 => bytes.iter().map(|&b| Value::from(b as i8)).collect(),
        WireType::I32 => words.map(|&w| Value::from(i32::from_le_bytes(w))).collect(),
        _ => words.map(|&w| Value::from(f32::from_le_bytes(w))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_for_numbers_are_read_and_texts_are_left() {
        let body = br#"{"name": "NaN \" NaN", "data": [NaN, -Infinity, [Infinity], 1]}"#;
        assert!(serde_json::from_slice::<Value>(body).is_err());
        let value: Value = serde_json::from_slice(&quoted(body).unwrap()).unwrap();
        assert_eq!(value["name"], r#"NaN " NaN"#);
        let bytes = from_json(&value["data"], WireType::F32).unwrap();
        let floats: Vec<f32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&w| f32::from_le_bytes(w))
            .collect();
        assert!(floats[0].is_nan());
        assert_eq!(floats[1..], [f32::NEG_INFINITY, f32::INFINITY, 1.0]);
        assert!(quoted(b"{\"data\": [1]}").is_none());
    }
}
