//! `POST /v2/models/M/infer`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::rt::task::JoinHandle;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::future::join_all;
use graft_files::CatalogEntry;
use graft_model::{Cut, CutPoint, ModelId, padded};
use graft_plan::Nanos;
use graft_telemetry::admin::{CROSS_ORIGIN, is_cross_origin};
use graft_transport::{Charge, NoRoom};
use graft_wire::{InferHeader, Refused, Status, TraceContext, WireType};
use serde_json::value::RawValue;

use super::answer::{
    AS_BYTES, AS_TEXT, AS_TEXT_OF_BYTES, Asked, Held, Reply, Wanted, no_room_for_answer, reply, wanted,
};
use super::body::{self, Body, HEADER_LENGTH, Input, MAX_BATCH, Rejected, bad, no_room, with_body};
use super::sockets::{OnSocket, Socket};
use super::tensors::{datatype, from_json, wire_type};
use super::{Shared, find, refusal_of};
use crate::bearers::Bearer;
use crate::front::{Answer, Came, Front, HTTP};

/// Bytes of JSON that are read on the thread of HTTP itself; more is read beside it.
const READ_HERE: usize = 16 << 10;

/// A call's trace, and how it came in.
#[derive(Clone)]
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
    /// Of several sizes, the one that takes it.
    model: ModelId,
    id: Option<String>,
    header: InferHeader,
    rows: Vec<Bytes>,
    outputs: Vec<Wanted>,
}

pub(super) async fn infer(
    request: HttpRequest,
    body: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let name = request.match_info().get("model").unwrap_or_default();
    let trace = trace_of(&request);
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let from = request.peer_addr().unwrap_or(nobody);
    let socket: Option<&Arc<Socket>> = request.conn_data();
    let _under_way = socket.map(OnSocket::begin);
    let mut door = Door {
        front: &shared.front,
        model: name,
        trace,
        is_through: false,
    };
    let outcome = async {
        let began = Instant::now();
        let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
        if is_cross_origin(text("Origin"), text("Host")) {
            return Err(Refused::new(Status::Forbidden, CROSS_ORIGIN).into());
        }
        let bearer = bearer_of(&request, &shared.front)?;
        shared.front.bearers.may_look(bearer.as_deref())?;
        // A name that there is not is refused before the body is looked at.
        let entry = find(&shared, name)?;
        let mut charge = shared.account.purse(from.ip()).charge();
        let body = body::read(&request, body, body::most_bytes(entry), &mut charge).await?;
        let call = Calling {
            trace,
            came: Came::new(from.ip(), HTTP + u64::from(from.port()), bearer, began.elapsed()),
        };
        answer(&request, name, body, &shared, call, charge, &mut door).await
    };
    match outcome.await {
        Ok(response) => response,
        Err(rejected) => {
            if !rejected.is_known {
                door.refuse(&rejected.refused);
            }
            let mut response = refusal_of(&rejected.refused, Some(trace));
            if let Some(code) = rejected.code {
                *response.status_mut() = code;
            }
            response
        }
    }
}

/// The way in of a call. What does not get through is counted and remembered, too; so is one whose caller waited no longer.
struct Door<'f> {
    front: &'f Front,
    model: &'f str,
    trace: TraceContext,
    is_through: bool,
}

impl Door<'_> {
    fn refuse(&mut self, refused: &Refused) {
        self.is_through = true;
        self.front.refused_at_door(self.model, self.trace, refused);
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        if !self.is_through {
            self.refuse(&Refused::new(Status::Cancelled, "the client waited no longer"));
        }
    }
}

/// Who calls, if a token shows it (RFC 6750, section 2.1). Where anyone may call, what is no token of the site's may be meant for
/// somebody on the way, and is passed over.
pub(super) fn bearer_of(request: &HttpRequest, front: &Front) -> Result<Option<Arc<Bearer>>, Refused> {
    let Some(header) = request.headers().get("Authorization") else {
        return Ok(None);
    };
    let token = header.to_str().ok().and_then(|v| v.strip_prefix("Bearer "));
    let what = "the Authorization header is no \"Bearer TOKEN\"";
    let token = token.ok_or_else(|| Refused::new(Status::Unauthenticated, what));
    match token.and_then(|token| front.bearers.read(token.trim())) {
        Err(_) if front.bearers.take_anyone() => Ok(None),
        read => read.map(Some),
    }
}

async fn answer(
    request: &HttpRequest,
    model: &str,
    body: Bytes,
    shared: &web::Data<Shared>,
    calling: Calling,
    mut charge: Charge,
    door: &mut Door<'_>,
) -> Result<HttpResponse, Rejected> {
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
    // Elements take no more than their text, but for a few of the shortest; they are beside it for a moment.
    charge.add(json_part.len()).await.map_err(|NoRoom| no_room())?;
    let (understood, mut charge) = {
        let (its_shared, model) = (shared.clone(), model.to_owned());
        let long = json_part.len() > READ_HERE || fills_up(shared, &model);
        let reading = move || {
            let read = with_body(&json_part, |body| {
                let entry = sized(&its_shared, &model, &body)?;
                let budget = its_shared.default_budget;
                understand(&body, binary, entry, budget, calling.trace, &mut charge)
            });
            (read, charge)
        };
        match long {
            false => reading(),
            true => {
                // A few at a time: health has the rest of the machine. Turn and room are the reading's, whatever becomes of the call.
                let lost = || Refused::new(Status::Internal, "reading the body was broken off");
                let turn = Arc::clone(&shared.reading).acquire_owned().await;
                let turn = turn.map_err(|_| lost())?;
                let done = web::block(move || (reading(), turn).0).await;
                done.map_err(|_| lost())?
            }
        }
    };
    let call = understood?;
    door.is_through = true;
    // On tasks of their own, so that they end in time whatever becomes of the socket.
    let pending: Vec<_> = call
        .rows
        .into_iter()
        .map(|row| {
            let (front, header, came) = (
                Arc::clone(&shared.front),
                call.header.clone(),
                calling.came.clone(),
            );
            Running(actix_web::rt::spawn(async move {
                front.infer(header, row, came).await
            }))
        })
        .collect();
    let mut answers = vec![];
    for outcome in join_all(pending).await {
        answers.push(outcome.map_err(Rejected::known)?);
    }
    let asked = Asked {
        model: call.model,
        id: call.id,
        outputs: call.outputs,
    };
    let (its_shared, trace) = (shared.clone(), calling.trace);
    let length = answers.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    // It is held for its caller until he has it.
    let is_text = asked.outputs.iter().any(|output| !output.binary);
    let mut types = answers.iter().flat_map(|(header, _)| &header.dtypes);
    let beside = match is_text {
        true if types.any(|sent| sent.dtype().bytes() == 1) => AS_TEXT_OF_BYTES,
        true => AS_TEXT,
        false => AS_BYTES,
    };
    let room = charge.add(length.saturating_mul(beside)).await;
    room.map_err(|NoRoom| Rejected::known(no_room_for_answer(is_text)))?;
    let long = length > READ_HERE;
    let writing = move || reply(&its_shared, &asked, answers, trace);
    let written = match long {
        false => writing(),
        true => {
            let turn = Arc::clone(&shared.reading).acquire_owned().await;
            let lost = || Refused::new(Status::Internal, "writing the answer was broken off");
            let turn = turn.map_err(|_| Rejected::known(lost()))?;
            let done = web::block(move || (writing(), turn).0).await;
            done.map_err(|_| Rejected::known(lost()))?
        }
    };
    let Reply { json_bytes, body } = written.map_err(Rejected::known)?;
    let mut response = HttpResponse::Ok();
    response.insert_header(("traceparent", trace.to_string()));
    let kind = match json_bytes {
        None => "application/json",
        Some(length) => {
            response.insert_header((HEADER_LENGTH, length.to_string()));
            "application/octet-stream"
        }
    };
    let body = Held::new(body, charge);
    Ok(response.content_type(kind).body(body).map_into_boxed_body())
}

/// An inference that is given up when nobody waits for it.
struct Running(JoinHandle<Answer>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for Running {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let done = Pin::new(&mut self.0).poll(cx);
        done.map(|done| done.unwrap_or_else(|lost| Err(Refused::new(Status::Internal, lost.to_string()))))
    }
}

/// Whether a call of a model may be filled up to many times its size.
fn fills_up(shared: &Shared, model: &str) -> bool {
    let fills = |entry: &CatalogEntry| {
        let mut inputs = entry.info.inputs().names();
        inputs.any(|input| entry.manifest.pad(input).is_some())
    };
    let catalog = &shared.front.catalog;
    catalog.find(model).is_some_and(fills) || catalog.sizes(model).into_iter().any(fills)
}

/// The model of a path; of several sizes the smallest that takes a call's inputs.
fn sized<'a>(shared: &'a Shared, model: &str, body: &Body<'_>) -> Result<&'a CatalogEntry, Refused> {
    let catalog = &shared.front.catalog;
    let sizes = catalog.sizes(model);
    if sizes.is_empty() {
        return find(shared, model);
    }
    if body.parameters.partition_point.is_some() {
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
    body: &Body<'_>,
    binary: Bytes,
    entry: &CatalogEntry,
    default_budget: Duration,
    trace: TraceContext,
    charge: &mut Charge,
) -> Result<Call, Refused> {
    let number = |name: &str, given: Option<&RawValue>| {
        let Some(given) = given else { return Ok(None) };
        let value = given.get().parse::<f64>().ok();
        value
            .filter(|v| v.is_finite() && *v >= 0.0 && *v <= 1e7)
            .map(Some)
            .ok_or_else(|| {
                let shown: String = given.get().chars().take(40).collect();
                bad(format!("parameter {name} is {shown}; expected a number from 0"))
            })
    };
    let parameters = &body.parameters;
    let budget = number("budget_ms", parameters.budget_ms)?
        .map_or(default_budget, |ms| Duration::from_secs_f64(ms / 1e3));
    let point = number("partition_point", parameters.partition_point)?.unwrap_or(0.0);
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
    let given = given(&body.inputs, &binary, cut, &fill, charge)?;
    let rows = given[0].rows;
    if given.len() > 1 {
        // Each request has its tensors in one piece.
        let all = given.iter().map(|g| g.bytes.len()).sum();
        charge.add_now(all).map_err(|NoRoom| no_room())?;
    }
    let payload = |row: usize| match given.as_slice() {
        [one] => one.row(row),
        several => Bytes::from(
            several
                .iter()
                .flat_map(|g| g.row(row).to_vec())
                .collect::<Vec<u8>>(),
        ),
    };
    let outputs = wanted(body, entry.info.outputs())?;
    Ok(Call {
        model: entry.info.id,
        id: body.id.clone(),
        header: InferHeader {
            model: entry.info.id,
            partition_point: point,
            dtypes: given.iter().map(|g| g.dtype).collect(),
            coded: false,
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
    inputs: &[Input<'_>],
    binary: &Bytes,
    cut: &Cut,
    fill: &dyn Fn(&str) -> Option<f64>,
    charge: &mut Charge,
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
        let size = input.parameters.binary_data_size;
        let elements = own.iter().product::<usize>() * rows;
        let bytes = match (size, &input.data) {
            (None, Some(data)) => Bytes::from(from_json(data, dtype, elements)?),
            (Some(size), None) if size <= rest.len() as u64 => rest.split_to(size as usize),
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
        let expected = elements * dtype.dtype().bytes();
        if bytes.len() != expected {
            return Err(bad(format!(
                "{} bytes of data for input {}; expected {expected}: {elements} elements of {} bytes",
                bytes.len(),
                input.name,
                dtype.dtype().bytes(),
            )));
        }
        let bytes = match fill.filter(|_| own != spec.shape) {
            Some(fill) => {
                charge
                    .add_now(rows.saturating_mul(width))
                    .map_err(|NoRoom| no_room())?;
                padded(&bytes, rows, (own, &spec.shape), dtype.dtype(), fill)
                    .map(Bytes::from)
                    .ok_or_else(|| bad(format!("input {} can't be filled up", input.name)))?
            }
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
