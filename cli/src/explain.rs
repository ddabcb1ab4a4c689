//! `graft explain`: a request's life.

use std::fmt::Write;

use clap::Args;
use graft_router_core::{Attempt, Life};
use graft_wire::{BatchClosed, Visit};

use crate::Verdict;
use crate::ask;
use crate::output::line;

/// Tell a request's life: upload, queue, batch, chunks, hand-over, answer. Without an id: the latest that were missed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The request's id, or its traceparent
    #[arg(value_name = "REQUEST-ID")]
    id: Option<String>,
    /// The address at which the router that it went through is administered (`admin`, or its HTTP address)
    #[arg(long, value_name = "HOST:PORT")]
    router: String,
    #[command(flatten)]
    shown: ask::Shown,
    /// Without an id: list requests that were in time instead
    #[arg(long)]
    in_time: bool,
    /// Without an id: so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    match &arguments.id {
        Some(id) => {
            anyhow::ensure!(
                id.chars().all(|c| c.is_ascii_hexdigit() || c == '-'),
                "{id:?} is no request's id: expected 32 hexadecimal digits, or a traceparent"
            );
            let life: Life = ask::get(&arguments.router, &arguments.shown, &format!("/v1/requests/{id}"))?;
            if arguments.json {
                line(serde_json::to_string(&life)?)?;
            } else {
                line(story(&life).trim_end())?;
            }
        }
        None => {
            let path = format!(
                "/v1/requests?missed={}&limit={}",
                !arguments.in_time, arguments.limit
            );
            let lives: Vec<Life> = ask::get(&arguments.router, &arguments.shown, &path)?;
            if arguments.json {
                line(serde_json::to_string(&lives)?)?;
            } else if lives.is_empty() {
                line("the router remembers no such request")?;
            }
            if !arguments.json {
                for life in &lives {
                    line(head(life))?;
                }
            }
        }
    }
    Ok(Verdict::Yes)
}

/// A request's life in one line.
fn head(life: &Life) -> String {
    format!(
        "{}  {} at cut point {}, {}",
        life.request_id,
        life.model_name,
        life.partition_point,
        ending(life)
    )
}

fn ending(life: &Life) -> String {
    let numbers = match life.not_finite {
        0 => String::new(),
        n => format!("; {n} elements of the answer are NaN or infinite"),
    };
    let text = match &life.refused {
        Some(refused) => format!("refused after {:.2} ms: {refused}", life.took_ms),
        None if life.in_time => format!("in time: {:.2} of {:.2} ms", life.took_ms, life.budget_ms),
        None => format!("late: {:.2} of {:.2} ms", life.took_ms, life.budget_ms),
    };
    text + &numbers
}

/// The whole life, an event a line; times in milliseconds from the router's having the request.
fn story(life: &Life) -> String {
    let mut text = head(life);
    let mut say = |at_ms: f64, what: String| write!(text, "\n{at_ms:>10.2} ms  {what}").unwrap_or_default();
    say(-life.upload_ms, "the first byte is at the router".to_owned());
    let budget = life.budget_ms;
    say(
        0.0,
        format!("all {} bytes are; the server has {budget:.2} ms", life.bytes),
    );
    for (n, attempt) in life.attempts.iter().enumerate() {
        let Attempt {
            worker,
            epoch,
            route,
            sent_ms,
            ..
        } = attempt;
        if n == 0 && *sent_ms > 1.0 {
            say(
                *sent_ms,
                "a plan that serves it is in use, or there is room".to_owned(),
            );
        }
        let again = if n > 0 { "once more: " } else { "" };
        say(
            *sent_ms,
            format!("{again}sent to worker {worker}, route {route} of plan {epoch}"),
        );
        for visit in &attempt.visits {
            visited(visit, *sent_ms, &mut say);
        }
        let back = sent_ms + attempt.took_ms;
        match &attempt.failed {
            Some(failed) => say(back, format!("worker {worker}: {failed}")),
            None if attempt.took_ms > 0.0 => say(back, format!("worker {worker} answers")),
            None => say(life.took_ms, format!("worker {worker} has not answered")),
        }
    }
    say(life.took_ms, ending(life));
    text
}

fn visited(visit: &Visit, sent_ms: f64, say: &mut impl FnMut(f64, String)) {
    // The time to the worker counts as zero: the worker's clock is another.
    let at = |ns: u64| sent_ms + ns as f64 / 1e6;
    say(
        at(visit.entered_ns),
        format!(
            "enters the queue of layers [{}, {}) at partition {} of {}",
            visit.from, visit.to, visit.partition, visit.worker
        ),
    );
    let Some(started) = visit.started_ns else {
        say(at(visit.entered_ns), "does not come to run there".to_owned());
        return;
    };
    let why = match visit.closed {
        Some(BatchClosed::NoneWaiting) => "nothing else waits",
        Some(BatchClosed::Full) => "it is full",
        Some(BatchClosed::Deadline) => "a larger one would be late",
        None => "?",
    };
    let waited = started.saturating_sub(visit.entered_ns) as f64 / 1e6;
    say(
        at(started),
        format!(
            "runs in a batch of {} ({why}) after {waited:.2} ms in the queue",
            visit.batch
        ),
    );
    let mut from = visit.from;
    let mut end = started;
    for chunk in &visit.chunks {
        let aside = chunk.started_ns.saturating_sub(end) as f64 / 1e6;
        if aside > 0.5 && from != visit.from {
            say(
                at(end),
                format!("gives way to more urgent ones for {aside:.2} ms"),
            );
        }
        say(
            at(chunk.started_ns),
            format!(
                "chunk [{from}, {}) takes {:.2} ms",
                chunk.to,
                chunk.took_ns as f64 / 1e6
            ),
        );
        (from, end) = (chunk.to, chunk.started_ns.saturating_add(chunk.took_ns));
    }
    if let Some(done) = visit.done_ns {
        say(
            at(done),
            format!("layers [{}, {}) are done", visit.from, visit.to),
        );
    }
}
