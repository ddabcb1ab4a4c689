//! Tensors of the Open Inference Protocol: names of element types, JSON and binary data.

use graft_model::DType;
use graft_wire::{Refused, Status, WireType};
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

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

/// JSON data, nested or flat, of so many elements at most, as little-endian bytes.
pub(super) fn from_json(data: &RawValue, dtype: WireType, most: usize) -> Result<Vec<u8>, Refused> {
    let mut elements = Elements {
        dtype,
        left: most,
        // An element and what parts it from the next are two characters at least.
        out: Vec::with_capacity(most.min(data.get().len() / 2 + 1) * dtype.dtype().bytes()),
    };
    let mut from = serde_json::Deserializer::from_str(data.get());
    (&mut elements).deserialize(&mut from).map_err(|error| {
        // The place of the error is within the data; whoever wrote it knows it by its words.
        let text = error.to_string();
        let words = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
        bad(words.to_owned())
    })?;
    Ok(elements.out)
}

/// Elements as they are read.
struct Elements {
    dtype: WireType,
    /// How many more there may be.
    left: usize,
    out: Vec<u8>,
}

impl Elements {
    fn one<E: de::Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| E::custom("there are more elements of data than the shape has"))?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn float<E: de::Error>(&mut self, value: f64) -> Result<(), E> {
        match self.dtype {
            WireType::F32 => self.one(&(value as f32).to_le_bytes()),
            WireType::F16 => Err(E::custom("FP16 travels as binary data only")),
            _ => Err(E::custom(format!("{value} is no integer"))),
        }
    }

    fn integer<E: de::Error>(&mut self, value: i64) -> Result<(), E> {
        let not_in = |what: &str| E::custom(format!("{value} does not fit {what}"));
        match self.dtype {
            WireType::F32 | WireType::F16 => self.float(value as f64),
            WireType::I64 => self.one(&value.to_le_bytes()),
            WireType::I32 => {
                let value = i32::try_from(value).map_err(|_| not_in("32 bits"))?;
                self.one(&value.to_le_bytes())
            }
            WireType::U8 => {
                let value = u8::try_from(value).map_err(|_| not_in("8 bits without a sign"))?;
                self.one(&[value])
            }
            WireType::I8 => {
                let value = i8::try_from(value).map_err(|_| not_in("8 bits"))?;
                self.one(&value.to_le_bytes())
            }
            WireType::Bool => self.one(&[u8::from(value != 0)]),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Elements {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Elements {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "numbers, in arrays or nested arrays")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.dtype {
            WireType::Bool => self.one(&[u8::from(value)]),
            _ => Err(E::custom("data must be numbers, in arrays or nested arrays")),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.integer(value),
            Err(_) => self.float(value as f64),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.float(value)
    }

    /// JSON has no such numbers; clients that send them write them as text.
    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let value = match (text, self.dtype) {
            ("NaN", WireType::F32) => f32::NAN,
            ("Infinity", WireType::F32) => f32::INFINITY,
            ("-Infinity", WireType::F32) => f32::NEG_INFINITY,
            (other, _) => {
                let shown: String = other.chars().take(40).collect();
                return Err(E::custom(format!("{shown:?} is no number")));
            }
        };
        self.one(&value.to_le_bytes())
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
pub(super) fn to_json(bytes: &[u8], dtype: WireType) -> Result<Box<RawValue>, Refused> {
    fn list<T: serde::Serialize>(numbers: impl Iterator<Item = T>) -> Result<Box<RawValue>, Refused> {
        let mut text = b"[".to_vec();
        for number in numbers {
            if text.len() > 1 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, &number).map_err(unwritten)?;
        }
        text.push(b']');
        let text = String::from_utf8(text).map_err(unwritten)?;
        RawValue::from_string(text).map_err(unwritten)
    }
    fn unwritten(error: impl std::fmt::Display) -> Refused {
        Refused::new(Status::Internal, error.to_string())
    }
    let words = bytes.as_chunks::<4>().0.iter();
    match dtype {
        WireType::I64 => list(bytes.as_chunks::<8>().0.iter().map(|&w| i64::from_le_bytes(w))),
        WireType::Bool => list(bytes.iter().map(|&b| b != 0)),
        WireType::U8 => list(bytes.iter().copied()),
        WireType::I8 => list(bytes.iter().map(|&b| b as i8)),
        WireType::I32 => list(words.map(|&w| i32::from_le_bytes(w))),
        _ => list(words.map(|&w| f64::from(f32::from_le_bytes(w)))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn bare_words_for_numbers_are_read_and_texts_are_left() {
        let body = br#"{"name": "NaN \" NaN", "data": [NaN, -Infinity, [Infinity], 1]}"#;
        assert!(serde_json::from_slice::<Value>(body).is_err());
        let value: Value = serde_json::from_slice(&quoted(body).unwrap()).unwrap();
        assert_eq!(value["name"], r#"NaN " NaN"#);
        let data = serde_json::value::to_raw_value(&value["data"]).unwrap();
        let bytes = from_json(&data, WireType::F32, 4).unwrap();
        assert!(
            from_json(&data, WireType::F32, 3).is_err(),
            "more than there may be"
        );
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
