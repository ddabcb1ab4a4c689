//! `POST /v2/models/M/infer`.

use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::future::join_all;
use graft_model::CutPoint;
use graft_plan::Nanos;
use graft_wire::{InferHeader, Refused, Status, TraceContext, WireType};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::SemaphorePermit;

use super::tensors::{datatype, from_json, quoted, to_json, wire_type};
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

/// How a call came in.
#[derive(Clone, Copy)]
struct Came {
    trace: TraceContext,
    coming_in: Duration,
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
    binary_output: bool,
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
        let call = Came {
            trace,
            coming_in: began.elapsed(),
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
    came: Came,
) -> Result<HttpResponse, Refused> {
    let entry = find(shared, model)?;
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
    let call = understand(parsed, binary, entry, shared.default_budget, came.trace)?;
    let rows = call.rows.len();
    let pending: Vec<_> = call
        .rows
        .into_iter()
        .map(|row| shared.front.infer(call.header.clone(), row, came.coming_in))
        .collect();
    let mut outputs = Vec::with_capacity(rows);
    for outcome in join_all(pending).await {
        outputs.push(outcome?);
    }
    let cut = entry
        .info
        .cuts
        .last()
        .ok_or_else(|| bad("the model has no output"))?;
    let mut shape = vec![rows];
    shape.extend_from_slice(&cut.shape);
    let dtype = outputs.first().map_or(WireType::F32, |(h, _)| h.dtype);
    let bytes: Vec<u8> = outputs.iter().flat_map(|(_, b)| b.iter().copied()).collect();
    let mut output = json!({ "name": cut.tensor, "shape": shape, "datatype": datatype(dtype.dtype()) });
    if call.binary_output {
        output["parameters"] = json!({ "binary_data_size": bytes.len() });
    } else {
        output["data"] = to_json(&bytes, dtype);
    }
    let (first, _) = &outputs[0];
    let mut reply = json!({
        "model_name": entry.manifest.name,
        "model_version": "1",
        "parameters": {
            "epoch": first.epoch,
            "router_ms": first.timing.router_ns as f64 / 1e6,
            "request_id": came.trace.request_id(),
        },
        "outputs": [output],
    });
    if let Some(id) = call.id {
        reply["id"] = id.into();
    }
    let traced = ("traceparent", came.trace.to_string());
    if !call.binary_output {
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

fn understand(
    body: Body,
    binary: Bytes,
    entry: &graft_files::CatalogEntry,
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
    let [input] = body.inputs.as_slice() else {
        return Err(bad(format!(
            "{} inputs; expected one, {}",
            body.inputs.len(),
            cut.tensor
        )));
    };
    if input.name != cut.tensor {
        return Err(bad(format!(
            "input {} is unknown; expected {}",
            input.name, cut.tensor
        )));
    }
    let rows = input.shape.first().copied().unwrap_or(0);
    if input.shape.get(1..) != Some(&cut.shape[..]) || rows == 0 || rows > MAX_BATCH {
        return Err(bad(format!(
            "shape {:?}; expected [n, {}] with n from 1 to {MAX_BATCH}",
            input.shape,
            cut.shape
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    let dtype = wire_type(&input.datatype).ok_or_else(|| {
        bad(format!(
            "datatype {}; expected {}",
            input.datatype,
            datatype(cut.dtype)
        ))
    })?;
    let size = input.parameters.get("binary_data_size").map(|v| v.as_u64());
    let bytes = match (size, &input.data) {
        (None, Some(data)) => Bytes::from(from_json(data, dtype)?),
        (Some(Some(size)), None) if size == binary.len() as u64 => binary,
        (Some(_), None) => {
            return Err(bad(format!(
                "binary_data_size does not match the {} bytes after the JSON",
                binary.len()
            )));
        }
        _ => {
            return Err(bad(
                "expected either data, or binary_data_size and bytes after the JSON",
            ));
        }
    };
    let width = cut.elements * dtype.dtype().bytes();
    if bytes.len() != width * rows {
        return Err(bad(format!(
            "{} bytes of data; expected {}",
            bytes.len(),
            width * rows
        )));
    }
    let last = entry.info.cuts.last().map_or("", |c| c.tensor.as_str());
    if let Some(unknown) = body.outputs.iter().find(|o| o.name != last) {
        return Err(bad(format!(
            "output {} is unknown; expected {last}",
            unknown.name
        )));
    }
    let flag = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_bool);
    let binary_output = body
        .outputs
        .first()
        .and_then(|o| flag(&o.parameters, "binary_data"))
        .or_else(|| flag(&body.parameters, "binary_data_output"))
        .unwrap_or(false);
    Ok(Call {
        id: body.id,
        header: InferHeader {
            model: entry.info.id,
            partition_point: point,
            dtype,
            time_left: Nanos::from(budget),
            trace,
        },
        rows: (0..rows)
            .map(|r| bytes.slice(r * width..(r + 1) * width))
            .collect(),
        binary_output,
    })
}
