//! A call's body: read by what arrives, and its JSON straight into what it is for.

use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::web::Payload;
use bytes::Bytes;
use futures_util::StreamExt;
use graft_files::CatalogEntry;
use graft_transport::{Charge, NoRoom, SLOW_AFTER};
use graft_wire::{Refused, Status};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::tensors::{from_json, quoted, wire_type};

/// Largest body, in bytes; a larger one is refused.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;
/// Requests in one call; each is admitted and batched by itself.
pub(super) const MAX_BATCH: usize = 64;
/// Longest wait for a body.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Bytes that an element takes as JSON at most, with what parts it from the next.
const ELEMENT_BYTES: usize = 32;
/// Bytes of a body beside its elements.
const AROUND_BYTES: usize = 64 << 10;
/// Inputs and outputs of a call that are read; a model has fewer.
const MOST_TENSORS: usize = 64;
/// Dimensions of a shape that are read; a tensor has fewer.
const MOST_DIMS: usize = 16;
/// Header in which the protocol says how long the JSON part of a body is, in bytes.
pub(super) const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

/// Why a call gets no answer: a code of its own, or the status's.
#[derive(Debug)]
pub(super) struct Rejected {
    pub code: Option<StatusCode>,
    pub refused: Refused,
    /// It came to be a request, which is counted and remembered as such.
    pub is_known: bool,
}

impl Rejected {
    /// Of a request that is counted and remembered.
    pub fn known(refused: Refused) -> Self {
        Rejected {
            is_known: true,
            ..refused.into()
        }
    }
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Self {
        Rejected {
            code: None,
            refused,
            is_known: false,
        }
    }
}

pub(super) fn bad(what: impl Into<String>) -> Refused {
    Refused::new(Status::BadRequest, what)
}

fn too_large(most: usize) -> Rejected {
    Rejected {
        code: Some(StatusCode::PAYLOAD_TOO_LARGE),
        refused: bad(format!(
            "the body has more than {most} bytes, which no call of this model has"
        )),
        is_known: false,
    }
}

/// Bytes that a call of a model may have.
pub(super) fn most_bytes(entry: &CatalogEntry) -> usize {
    let elements = |cut: &graft_model::Cut| cut.tensors.iter().map(|t| t.elements).sum::<usize>();
    let most = entry.info.cuts.iter().map(elements).max().unwrap_or(0);
    most.saturating_mul(MAX_BATCH * ELEMENT_BYTES)
        .saturating_add(AROUND_BYTES)
        .min(MAX_BODY_BYTES)
}

/// Reads a body of so many bytes at most; what arrives is charged as it arrives.
pub(super) async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    most: usize,
    charge: &mut Charge,
) -> Result<Bytes, Rejected> {
    let length = request
        .headers()
        .get("Content-Length")
        .and_then(|v| v.to_str().ok());
    if length
        .and_then(|v| v.parse::<usize>().ok())
        .is_some_and(|announced| announced > most)
    {
        return Err(too_large(most));
    }
    let began = Instant::now();
    let mut body = Vec::new();
    loop {
        if charge.is_too_slow(began, body.len()) {
            return Err(no_room().into());
        }
        let left = READ_WITHIN.saturating_sub(began.elapsed());
        let next = tokio::select! {
            next = payload.next() => next,
            () = charge.must_give_way() => return Err(no_room().into()),
            () = tokio::time::sleep(left.min(SLOW_AFTER)) => {
                if left.is_zero() {
                    return Err(bad("the body did not come in whole in time").into());
                }
                continue;
            }
        };
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|e| bad(format!("the body can't be read: {e}")))?;
        let needed = body.len() + chunk.len();
        if needed > most {
            return Err(too_large(most));
        }
        let room = charge.make_room(&mut body, chunk.len(), most).await;
        room.map_err(|NoRoom| no_room())?;
        body.extend_from_slice(&chunk);
    }
    Ok(Bytes::from(body))
}

pub(super) fn no_room() -> Refused {
    Refused::new(
        Status::Overloaded,
        "the bodies of other calls take all the memory that they may",
    )
}

/// What a call says. Elements stay as they came, until it is known what they are for.
#[derive(serde::Deserialize)]
pub(super) struct Body<'b> {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default, borrow)]
    pub parameters: Parameters<'b>,
    #[serde(borrow, deserialize_with = "few_tensors")]
    pub inputs: Vec<Input<'b>>,
    #[serde(default, deserialize_with = "few_tensors")]
    pub outputs: Vec<Output>,
}

/// Parameters of a call that mean something; others are passed over.
#[derive(Default, serde::Deserialize)]
pub(super) struct Parameters<'b> {
    #[serde(default, borrow)]
    pub budget_ms: Option<&'b RawValue>,
    #[serde(default, borrow)]
    pub partition_point: Option<&'b RawValue>,
    #[serde(default)]
    pub binary_data_output: Option<bool>,
}

#[derive(serde::Deserialize)]
pub(super) struct Input<'b> {
    pub name: String,
    #[serde(deserialize_with = "few_dims")]
    pub shape: Vec<usize>,
    pub datatype: String,
    #[serde(default)]
    pub parameters: InputParameters,
    #[serde(default, borrow)]
    pub data: Option<&'b RawValue>,
}

#[derive(Default, serde::Deserialize)]
pub(super) struct InputParameters {
    #[serde(default)]
    pub binary_data_size: Option<u64>,
}

#[derive(serde::Deserialize)]
pub(super) struct Output {
    pub name: String,
    #[serde(default)]
    pub parameters: OutputParameters,
}

#[derive(Default, serde::Deserialize)]
pub(super) struct OutputParameters {
    #[serde(default)]
    pub binary_data: Option<bool>,
}

fn few_tensors<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    few(from, MOST_TENSORS)
}

fn few_dims<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
    few(from, MOST_DIMS)
}

/// A list of so many items at most.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D, most: usize) -> Result<Vec<T>, D::Error> {
    struct Few<T>(usize, std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of {} items at most", self.0)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = vec![];
            while let Some(item) = list.next_element()? {
                if items.len() >= self.0 {
                    return Err(de::Error::invalid_length(items.len() + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    from.deserialize_seq(Few(most, std::marker::PhantomData))
}

/// Does something with what a body's JSON says.
pub(super) fn with_body<T>(
    json: &[u8],
    f: impl FnOnce(Body<'_>) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let wrong = |e: serde_json::Error| bad(format!("the body is no inference request: {e}"));
    match serde_json::from_slice(json) {
        Ok(body) => f(body),
        Err(error) => match quoted(json) {
            Some(json) => f(serde_json::from_slice(&json).map_err(wrong)?),
            None => Err(wrong(error)),
        },
    }
}

/// Reads the JSON of a call and the elements of its inputs, as many as a body may hold. Whether it is one.
pub(crate) fn is_call(json: &[u8]) -> bool {
    let read = with_body(json, |body| {
        for input in &body.inputs {
            if let (Some(data), Some(dtype)) = (input.data, wire_type(&input.datatype)) {
                from_json(data, dtype, json.len())?;
            }
        }
        Ok(())
    });
    read.is_ok()
}
