//! What a call is answered with: outputs, as JSON or as bytes, passed on as its caller takes them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use graft_model::{Cut, ModelId};
use graft_transport::Charge;
use graft_wire::{AnswerHeader, Refused, Status, TraceContext, WireType};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Shared;
use super::body::{Body, bad};
use super::tensors::{datatype, to_json};

/// An output that the caller wants.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Its place among the model's outputs.
    pub at: usize,
    /// As bytes after the JSON.
    pub binary: bool,
}

/// The outputs of all requests of a call.
struct Outputs<'m> {
    cut: &'m Cut,
    header: AnswerHeader,
    dtypes: Vec<WireType>,
    rows: Vec<Bytes>,
}

impl<'m> Outputs<'m> {
    /// `Err`: a worker answered with something else than the model's outputs.
    fn of(cut: &'m Cut, answers: Vec<(AnswerHeader, Bytes)>) -> Result<Self, Refused> {
        let internal = |what: String| Refused::new(Status::Internal, what);
        let Some((header, _)) = answers.first().cloned() else {
            return Err(internal("there is no answer".to_owned()));
        };
        let types = WireType::dtypes(&header.dtypes);
        for (own, bytes) in &answers {
            cut.check(&types, bytes.len())
                .map_err(|e| internal(format!("the answer does not fit: {e}")))?;
            if own.dtypes != header.dtypes {
                return Err(internal("answers of several types".to_owned()));
            }
        }
        Ok(Outputs {
            cut,
            dtypes: header.dtypes.clone(),
            header,
            rows: answers.into_iter().map(|(_, bytes)| bytes).collect(),
        })
    }

    /// An output without its elements.
    fn told(&self, at: usize) -> ToldOutput<'_> {
        let spec = &self.cut.tensors[at];
        let mut shape = vec![self.rows.len()];
        shape.extend_from_slice(&spec.shape);
        ToldOutput {
            name: &spec.name,
            shape,
            datatype: datatype(self.dtypes[at].dtype()),
            parameters: None,
            data: None,
        }
    }

    /// An output's elements, one request after the other.
    fn bytes(&self, at: usize) -> Vec<u8> {
        let types = WireType::dtypes(&self.dtypes);
        let rows = self.rows.iter();
        let own = rows.filter_map(|row| self.cut.apart(&types, row).ok().map(|parts| parts[at]));
        own.flatten().copied().collect()
    }
}

/// A response, as JSON.
#[derive(serde::Serialize)]
struct Told<'t> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'t str>,
    model_name: &'t str,
    model_version: &'t str,
    parameters: Value,
    outputs: Vec<ToldOutput<'t>>,
}

/// An output of it.
#[derive(serde::Serialize)]
struct ToldOutput<'t> {
    name: &'t str,
    shape: Vec<usize>,
    datatype: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// What an answered call asked for.
pub(super) struct Asked {
    pub model: ModelId,
    pub id: Option<String>,
    pub outputs: Vec<Wanted>,
}

/// A response's body.
pub(super) struct Reply {
    /// Length of its JSON, where elements follow as bytes.
    pub json_bytes: Option<usize>,
    pub body: Vec<u8>,
}

pub(super) fn reply(
    shared: &Shared,
    asked: &Asked,
    answers: Vec<(AnswerHeader, Bytes)>,
    trace: TraceContext,
) -> Result<Reply, Refused> {
    let gone = || Refused::new(Status::Internal, "the model is gone");
    let entry = shared.front.catalog.get(&asked.model).ok_or_else(gone)?;
    let outputs = Outputs::of(entry.info.outputs(), answers)?;
    let (mut listed, mut bytes) = (vec![], vec![]);
    for wanted in &asked.outputs {
        let mut tensor = outputs.told(wanted.at);
        let own = outputs.bytes(wanted.at);
        if wanted.binary {
            tensor.parameters = Some(json!({ "binary_data_size": own.len() }));
            bytes.extend(own);
        } else {
            tensor.data = Some(to_json(&own, outputs.dtypes[wanted.at])?);
        }
        listed.push(tensor);
    }
    let first = &outputs.header;
    let told = Told {
        id: asked.id.as_deref(),
        model_name: &entry.manifest.name,
        model_version: "1",
        parameters: json!({
            "epoch": first.epoch,
            "router_ms": first.timing.router_ns as f64 / 1e6,
            "request_id": trace.request_id(),
        }),
        outputs: listed,
    };
    let unwritten = |error: serde_json::Error| Refused::new(Status::Internal, error.to_string());
    let mut body = serde_json::to_vec(&told).map_err(unwritten)?;
    let length = body.len();
    body.extend(bytes);
    let binary = asked.outputs.iter().any(|o| o.binary);
    Ok(Reply {
        json_bytes: binary.then_some(length),
        body,
    })
}

/// A body that is passed on as its caller takes it, and counts as held until he has.
pub(super) struct Held {
    left: Bytes,
    charge: Charge,
    since: Instant,
    whole: usize,
}

impl Held {
    /// A body, and what it holds.
    pub fn new(body: Vec<u8>, mut charge: Charge) -> Self {
        charge.keep(body.len());
        Held {
            whole: body.len(),
            left: Bytes::from(body),
            charge,
            since: Instant::now(),
        }
    }
}

/// Its caller takes it too slowly, and others need the room.
#[derive(Debug, thiserror::Error)]
#[error("the answer is taken too slowly, and others need its room")]
pub(super) struct TooSlow;

impl MessageBody for Held {
    type Error = TooSlow;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, TooSlow>>> {
        let next = self.left.len().min(PIECE);
        if next == 0 {
            return Poll::Ready(None);
        }
        let passed = self.whole - self.left.len();
        if self.charge.is_too_slow(self.since, passed) {
            return Poll::Ready(Some(Err(TooSlow)));
        }
        let piece = self.left.split_to(next);
        let left = self.left.len();
        self.charge.keep(left);
        Poll::Ready(Some(Ok(piece)))
    }
}

/// Bytes that an answer takes while it is written as text, as a multiple: itself, the text of each number, and the whole.
pub(super) const AS_TEXT: usize = 12;
/// The same of elements of a byte each, of which each is a number or a word.
pub(super) const AS_TEXT_OF_BYTES: usize = 20;
/// The same where it is written as bytes.
pub(super) const AS_BYTES: usize = 3;
/// Bytes of a body that are passed on at a time.
const PIECE: usize = 64 << 10;

pub(super) fn no_room_for_answer(is_text: bool) -> Refused {
    let what = match is_text {
        true => "there is no room for the answer as text: ask for it as binary data (binary_data_output)",
        false => "there is no room for the answer",
    };
    Refused::new(Status::Overloaded, what)
}

/// The outputs that a call wants: those that it names, or all.
pub(super) fn wanted(body: &Body<'_>, cut: &Cut) -> Result<Vec<Wanted>, Refused> {
    let all_binary = body.parameters.binary_data_output.unwrap_or(false);
    if body.outputs.is_empty() {
        let all = (0..cut.tensors.len()).map(|at| Wanted {
            at,
            binary: all_binary,
        });
        return Ok(all.collect());
    }
    if body.outputs.len() > cut.tensors.len() {
        let (many, all) = (body.outputs.len(), cut.tensors.len());
        return Err(bad(format!("{many} outputs are asked for; the model has {all}")));
    }
    let named = body.outputs.iter().map(|output| {
        let at = cut.position(&output.name).ok_or_else(|| {
            let names: Vec<&str> = cut.names().collect();
            bad(format!(
                "output {} is unknown; expected {}",
                output.name,
                names.join(", ")
            ))
        })?;
        Ok(Wanted {
            at,
            binary: output.parameters.binary_data.unwrap_or(all_binary),
        })
    });
    let named: Vec<Wanted> = named.collect::<Result<_, Refused>>()?;
    let twice = |(n, wanted): (usize, &Wanted)| named[..n].iter().any(|other| other.at == wanted.at);
    match named.iter().enumerate().any(twice) {
        true => Err(bad("an output is asked for twice")),
        false => Ok(named),
    }
}
