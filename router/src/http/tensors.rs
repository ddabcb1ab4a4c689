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
                    let value = i8::try_from(integer()?)
                        .map_err(|_| bad(format!("{number} does not fit 8 bits")))?;
                    out.extend(value.to_le_bytes());
                }
                WireType::F16 => return Err(bad("FP16 travels as binary data only")),
            }
            Ok(())
        }
        _ => Err(bad("data must be numbers, in arrays or nested arrays")),
    }
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
        WireType::U8 => bytes.iter().map(|&b| Value::from(b)).collect(),
        WireType::I8 => bytes.iter().map(|&b| Value::from(b as i8)).collect(),
        WireType::I32 => words.map(|&w| Value::from(i32::from_le_bytes(w))).collect(),
        _ => words.map(|&w| Value::from(f32::from_le_bytes(w))).collect(),
    }
}
