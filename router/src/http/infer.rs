//! `POST /v2/models/M/infer`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::future::join_all;
use graft_files::CatalogEntry;
use graft_model::{Cut, CutPoint, padded};
use graft_plan::Nanos;
use graft_wire::{AnswerHeader, InferHeader, Refused, Status, TraceContext, WireType};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::SemaphorePermit;

use super::tensors::{datatype, from_json, quoted, to_json, wire_type};
use crate::front::{Came, source_at};

use super::{BODIES_KIB, JSON_GROWTH, MAX_BODY_BYTES, Shared, find, refusal_of};

/// Requests in one call; each is admitted and batched by itself.
const MAX_BATCH: usize = 64;
/// Longest wait for a body.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Header in which the protocol says how long the JSON part of a body is, in bytes.
const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// A call's trace, and how it came in.
#[derive(Clone, Copy)]
struct Calling {
    trace: TraceContext,
    came: Came,
}

/// The caller's trace context (W3C `traceparent`), one span further; a new trace where it has none.
fn trace_of(request: &HttpRequest) -> TraceContext {
    let header = request.headers().get("traceparent");
    let given = header.and_then(|v| v.to_str().ok()).and_then(TraceContext::parse);
    match given {
        Some(context) => context.child(fastrand::u64(..)),
        None => TraceContext::new(fastrand::u128(..), fastrand::u64(..)),
    }
}

/// A body that was understood.
struct Call {
    id: Option<String>,
    header: InferHeader,
    rows: Vec<Bytes>,
    outputs: Vec<Wanted>,
}

/// An output that the caller wants.
#[derive(Clone, Copy)]
struct Wanted {
    /// Its place among the model's outputs.
    at: usize,
    /// As bytes after the JSON.
    binary: bool,
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
    fn json(&self, at: usize) -> Value {
        let spec = &self.cut.tensors[at];
        let mut shape = vec![self.rows.len()];
        shape.extend_from_slice(&spec.shape);
        json!({ "name": spec.name, "shape": shape, "datatype": datatype(self.dtypes[at].dtype()) })
    }

    /// An output's elements, one request after the other.
    fn bytes(&self, at: usize) -> Vec<u8> {
        let types = WireType::dtypes(&self.dtypes);
        let rows = self.rows.iter();
        let own = rows.filter_map(|row| self.cut.apart(&types, row).ok().map(|parts| parts[at]));
        own.flatten().copied().collect()
    }
}

fn bad(what: impl Into<String>) -> Refused {
    Refused::new(Status::BadRequest, what)
}

pub(super) async fn infer(
    request: HttpRequest,
    body: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let name = request.match_info().get("model").unwrap_or_default();
    let trace = trace_of(&request);
    let outcome = async {
        let began = Instant::now();
        // Room is taken before anything is read, for as long as the call lasts.
        let _room = take_room(&request, &shared)?;
        let body = tokio::time::timeout(READ_WITHIN, body.to_bytes_limited(MAX_BODY_BYTES))
            .await
            .map_err(|_| bad("the body did not come in whole in time"))?
            .map_err(|_| bad(format!("the body has more than {MAX_BODY_BYTES} bytes")))?
            .map_err(|e| bad(format!("the body can't be read: {e}")))?;
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        let call = Calling {
            trace,
            came: Came {
                source: source_at(request.peer_addr().unwrap_or(nobody), true),
                coming_in: began.elapsed(),
            },
        };
        answer(&request, name, &body, &shared, call).await
    };
    match outcome.await {
        Ok(response) => response,
        Err(refused) => refusal_of(&refused, Some(trace)),
    }
}

/// Room for a body by its announced length; the largest where none is announced.
fn take_room<'s>(request: &HttpRequest, shared: &'s Shared) -> Result<SemaphorePermit<'s>, Refused> {
    let number = |name: &str| request.headers().get(name)?.to_str().ok()?.parse::<usize>().ok();
    let whole = number("Content-Length")
        .unwrap_or(MAX_BODY_BYTES)
        .min(MAX_BODY_BYTES);
    let json = number(HEADER_LENGTH).unwrap_or(whole).min(whole);
    let kib = (whole + json * JSON_GROWTH).div_ceil(1024);
    let kib = u32::try_from(kib.min(BODIES_KIB)).unwrap_or(u32::MAX);
    shared.bodies.try_acquire_many(kib).map_err(|_| {
        Refused::new(
            Status::Overloaded,
            "the bodies of other calls take all the memory that they may",
        )
    })
}

async fn answer(
    request: &HttpRequest,
    model: &str,
    body: &Bytes,
    shared: &Shared,
    calling: Calling,
) -> Result<HttpResponse, Refused> {
    // A name that there is not is refused before the body is looked at.
    find(shared, model)?;
    let header_length = request
        .headers()
        .get(HEADER_LENGTH)
        .map(|v| {
            v.to_str()
                .ok()
                .and_then(|v| v.parse::<usize>().ok())
                .filter(|&n| n <= body.len())
                .ok_or_else(|| bad(format!("{HEADER_LENGTH} is no length within the body")))
        })
        .transpose()?;
    let (json_part, binary) = match header_length {
        None => (body.clone(), Bytes::new()),
        Some(n) => (body.slice(..n), body.slice(n..)),
    };
    let parsed: Body = serde_json::from_slice(&json_part)
        .or_else(|error| match quoted(&json_part) {
            Some(body) => serde_json::from_slice(&body),
            None => Err(error),
        })
        .map_err(|e| bad(format!("the body is no inference request: {e}")))?;
    let entry = sized(shared, model, &parsed)?;
    let call = understand(parsed, binary, entry, shared.default_budget, calling.trace)?;
    let pending: Vec<_> = call
        .rows
        .into_iter()
        .map(|row| shared.front.infer(call.header.clone(), row, calling.came))
        .collect();
    let mut answers = vec![];
    for outcome in join_all(pending).await {
        answers.push(outcome?);
    }
    let outputs = Outputs::of(entry.info.outputs(), answers)?;
    let (mut listed, mut bytes) = (vec![], vec![]);
    for wanted in &call.outputs {
        let mut tensor = outputs.json(wanted.at);
        let own = outputs.bytes(wanted.at);
        if wanted.binary {
            tensor["parameters"] = json!({ "binary_data_size": own.len() });
            bytes.extend(own);
        } else {
            tensor["data"] = to_json(&own, outputs.dtypes[wanted.at]);
        }
        listed.push(tensor);
    }
    let first = &outputs.header;
    let mut reply = json!({
        "model_name": entry.manifest.name,
        "model_version": "1",
        "parameters": {
            "epoch": first.epoch,
            "router_ms": first.timing.router_ns as f64 / 1e6,
            "request_id": calling.trace.request_id(),
        },
        "outputs": listed,
    });
    if let Some(id) = call.id {
        reply["id"] = id.into();
    }
    let traced = ("traceparent", calling.trace.to_string());
    if !call.outputs.iter().any(|o| o.binary) {
        return Ok(HttpResponse::Ok().insert_header(traced).json(reply));
    }
    let mut json = reply.to_string().into_bytes();
    let length = json.len();
    json.extend(bytes);
    Ok(HttpResponse::Ok()
        .insert_header(traced)
        .insert_header((HEADER_LENGTH, length.to_string()))
        .content_type("application/octet-stream")
        .body(json))
}

/// The model of a path; of several sizes the smallest that takes a call's inputs.
fn sized<'a>(shared: &'a Shared, model: &str, body: &Body) -> Result<&'a CatalogEntry, Refused> {
    let catalog = &shared.front.catalog;
    let sizes = catalog.sizes(model);
    if sizes.is_empty() {
        return find(shared, model);
    }
    if body.parameters.contains_key("partition_point") {
        let names: Vec<&str> = sizes.iter().map(|e| e.manifest.name.as_str()).collect();
        return Err(bad(format!(
            "a partition_point belongs to one size of {model}: name {}",
            names.join(", ")
        )));
    }
    let takes = |entry: &&CatalogEntry| {
        let mut inputs = body.inputs.iter();
        inputs.all(|input| entry.takes(&input.name, input.shape.get(1..).unwrap_or_default()))
    };
    sizes.iter().copied().find(takes).ok_or_else(|| {
        let known: Vec<String> = sizes.iter().map(|e| e.info.inputs().to_string()).collect();
        bad(format!(
            "no size of {model} takes these inputs; it has {}",
            known.join("; ")
        ))
    })
}

fn understand(
    body: Body,
    binary: Bytes,
    entry: &CatalogEntry,
    default_budget: Duration,
    trace: TraceContext,
) -> Result<Call, Refused> {
    let number = |name: &str| match body.parameters.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_f64()
            .filter(|v| v.is_finite() && *v >= 0.0 && *v <= 1e7)
            .map(Some)
            .ok_or_else(|| bad(format!("parameter {name} is {value}; expected a number from 0"))),
    };
    let budget = number("budget_ms")?.map_or(default_budget, |ms| Duration::from_secs_f64(ms / 1e3));
    let point = number("partition_point")?.unwrap_or(0.0);
    let point = CutPoint(if point.fract() == 0.0 && point < 65_536.0 {
        point as u16
    } else {
        return Err(bad("partition_point is no cut point"));
    });
    let cut = entry.info.cut(point).ok_or_else(|| {
        bad(format!(
            "cut point {point} is beyond the last one, {}",
            entry.info.last()
        ))
    })?;
    let fill = |input: &str| entry.manifest.pad(input).filter(|_| point == CutPoint(0));
    let given = given(&body.inputs, &binary, cut, &fill)?;
    let rows = given[0].rows;
    let payload = |row: usize| match given.as_slice() {
        [one] => one.row(row),
        several => Bytes::from(
            several
                .iter()
                .flat_map(|g| g.row(row).to_vec())
                .collect::<Vec<u8>>(),
        ),
    };
    let outputs = wanted(&body, entry.info.outputs())?;
    Ok(Call {
        id: body.id,
        header: InferHeader {
            model: entry.info.id,
            partition_point: point,
            dtypes: given.iter().map(|g| g.dtype).collect(),
            time_left: Nanos::from(budget),
            trace,
        },
        rows: (0..rows).map(payload).collect(),
        outputs,
    })
}

/// A tensor of a call.
struct Given {
    dtype: WireType,
    rows: usize,
    /// Elements of all rows.
    bytes: Bytes,
    /// Bytes of one row.
    width: usize,
}

impl Given {
    fn row(&self, row: usize) -> Bytes {
        self.bytes.slice(row * self.width..(row + 1) * self.width)
    }
}

/// The tensors of a call in the order of the cut point. `binary`: what comes after the JSON, in the order of the call;
/// `fill`: with what a smaller input is filled up, if it may be.
fn given(
    inputs: &[Input],
    binary: &Bytes,
    cut: &Cut,
    fill: &dyn Fn(&str) -> Option<f64>,
) -> Result<Vec<Given>, Refused> {
    let names = || cut.names().collect::<Vec<_>>().join(", ");
    if let Some(unknown) = inputs.iter().find(|i| cut.position(&i.name).is_none()) {
        return Err(bad(format!(
            "input {} is unknown; expected {}",
            unknown.name,
            names()
        )));
    }
    if inputs.len() != cut.tensors.len() {
        return Err(bad(format!(
            "{} inputs; expected {}: {}",
            inputs.len(),
            cut.tensors.len(),
            names()
        )));
    }
    let mut found: Vec<Option<Given>> = cut.tensors.iter().map(|_| None).collect();
    let mut rest = binary.clone();
    for input in inputs {
        let Some((at, spec)) = cut.position(&input.name).map(|at| (at, &cut.tensors[at])) else {
            continue;
        };
        let rows = input.shape.first().copied().unwrap_or(0);
        let own = input.shape.get(1..).unwrap_or_default();
        let fill = fill(&input.name);
        let smaller = || {
            own.len() == spec.shape.len() && own.iter().zip(&spec.shape).all(|(a, b)| (1..=*b).contains(a))
        };
        let fits = own == spec.shape || (fill.is_some() && smaller());
        if !fits || rows == 0 || rows > MAX_BATCH {
            let shape: Vec<String> = spec.shape.iter().map(usize::to_string).collect();
            return Err(bad(format!(
                "input {} of shape {:?}; expected [n, {}] with n from 1 to {MAX_BATCH}",
                input.name,
                input.shape,
                shape.join(", ")
            )));
        }
        let dtype = wire_type(&input.datatype).ok_or_else(|| {
            bad(format!(
                "datatype {}; expected {}",
                input.datatype,
                datatype(spec.dtype)
            ))
        })?;
        let size = input.parameters.get("binary_data_size").map(Value::as_u64);
        let bytes = match (size, &input.data) {
            (None, Some(data)) => Bytes::from(from_json(data, dtype)?),
            (Some(Some(size)), None) if size <= rest.len() as u64 => rest.split_to(size as usize),
            (Some(_), None) => {
                return Err(bad(format!(
                    "binary_data_size of input {} does not match the {} bytes after the JSON",
                    input.name,
                    rest.len()
                )));
            }
            _ => {
                return Err(bad(
                    "expected either data, or binary_data_size and bytes after the JSON",
                ));
            }
        };
        let width = spec.elements * dtype.dtype().bytes();
        let expected = own.iter().product::<usize>() * dtype.dtype().bytes() * rows;
        if bytes.len() != expected {
            return Err(bad(format!(
                "{} bytes of data for input {}; expected {expected}",
                bytes.len(),
                input.name,
            )));
        }
        let bytes = match fill.filter(|_| own != spec.shape) {
            Some(fill) => padded(&bytes, rows, (own, &spec.shape), dtype.dtype(), fill)
                .map(Bytes::from)
                .ok_or_else(|| bad(format!("input {} can't be filled up", input.name)))?,
            None => bytes,
        };
        if found[at].is_some() {
            return Err(bad(format!("input {} is given twice", input.name)));
        }
        found[at] = Some(Given {
            dtype,
            rows,
            bytes,
            width,
        });
    }
    if !rest.is_empty() {
        return Err(bad(format!(
            "binary_data_size does not match: {} bytes are left over after the JSON",
            rest.len()
        )));
    }
    let found: Vec<Given> = found.into_iter().flatten().collect();
    if let Some(other) = found.iter().find(|g| g.rows != found[0].rows) {
        return Err(bad(format!(
            "inputs with {} and {} rows; expected as many in each",
            found[0].rows, other.rows
        )));
    }
    Ok(found)
}

/// The outputs that a call wants: those that it names, or all.
fn wanted(body: &Body, cut: &Cut) -> Result<Vec<Wanted>, Refused> {
    let flag = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_bool);
    let all_binary = flag(&body.parameters, "binary_data_output").unwrap_or(false);
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
            binary: flag(&output.parameters, "binary_data").unwrap_or(all_binary),
        })
    });
    named.collect()
}
