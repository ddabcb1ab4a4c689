//! `graft load`: the clients of a scenario before real routers, open-loop.

mod line;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use graft_client_core::DESCRIBE_EVERY;
use graft_files::Catalog;
use graft_model::{CutPoint, ModelId};
use graft_plan::Nanos;
use graft_service::{resolve, run_system};
use graft_simulator::{Crowd, Doing};
use graft_transport::{Endpoint, EndpointOptions, Role};
use graft_wire::Description;
use graft_worker_core::RequestId;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::Verdict;
use crate::output::{can_be_written, line as print};
use crate::scenario::Files;
use line::{Line, Outcome};

/// Let the clients of a scenario ask real routers, and measure what they get.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A router's QUIC address, host:port; several: clients are spread over them, and move to another when theirs goes away, is
    /// lost or gives no sign of life
    #[arg(long, required = true, value_name = "HOST:PORT")]
    router: Vec<String>,
    /// Certificate of the authority that issued the routers' (PEM)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Name that routers' certificates must carry
    #[arg(long, default_value = Role::Router.server_name())]
    server_name: String,
    /// File with the token that says who asks, where routers want to know (`graft ca token`)
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// Folder of the scenario's models: what tensors look like
    #[arg(long, value_name = "DIR", default_value = "models")]
    models: PathBuf,
    #[command(flatten)]
    files: Files,
    /// Everything takes so many times as long as the scenario says: heads, links, budgets, time between requests.
    /// For devices that are emulated so
    #[arg(long, value_name = "TIMES", default_value_t = 1.0)]
    stretch: f64,
    /// Connections to each router; clients share them
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// Seed of all that is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Most outcomes that wait to be looked at; a request's task that has one more waits.
const OUTCOMES: usize = 65_536;
/// Most requests that are waited for at a time; one more is not sent, and counts as lost.
const MOST_IN_FLIGHT: usize = 65_536;
/// Time beyond its budget for which a request is waited for: a refusal may be on its way.
const GRACE: Duration = Duration::from_secs(2);
/// Time after the last request has begun for which what is under way is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    graft_telemetry::logs::start("warn");
    run_system(load(arguments))
}

/// Time by which this load generator sent requests later than they were due.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Lag {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Additional figures of a load's report.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Measured {
    pub routers: Vec<String>,
    pub stretch: f64,
    /// Whether devices are emulated: then no layer was run.
    pub emulated: bool,
    pub lag: Lag,
    pub most_in_flight: usize,
}

async fn load(arguments: Arguments) -> anyhow::Result<Verdict> {
    if let Some(file) = &arguments.html {
        can_be_written(file)?;
    }
    anyhow::ensure!(
        arguments.stretch.is_finite() && arguments.stretch > 0.0,
        "--stretch is {}; expected a number above 0",
        arguments.stretch
    );
    let stage = arguments.files.read_for_clients()?;
    let mut scenario = stage.scenario;
    scenario.routers = u32::try_from(arguments.router.len()).unwrap_or(u32::MAX);
    let catalog = Catalog::read(&arguments.models)?;
    let phones = scenario.phones.iter().flat_map(|g| g.model.list());
    let models: BTreeSet<&str> = phones
        .chain(scenario.fragments.iter().map(|f| &f.model))
        .map(String::as_str)
        .collect();
    let endpoint = Endpoint::anonymous(&arguments.ca, EndpointOptions::default())?;
    let token = crate::infer::read_token(arguments.token.as_deref())?;
    let mut lines = vec![];
    for router in &arguments.router {
        let address = resolve("--router", router)?;
        let line = Line::open(
            endpoint.clone(),
            address,
            &arguments.server_name,
            token.as_deref(),
            arguments.connections,
        );
        lines.push(line.await.with_context(|| format!("router {router}"))?);
    }
    let entry = |name: &str| {
        let found = catalog.find(name);
        found.with_context(|| format!("{} has no model {name}", arguments.models.display()))
    };
    for model in &models {
        let last = entry(model)?.info.last().index();
        let segments = stage
            .hardware
            .profiles
            .last_cut(model)
            .map_or(last, CutPoint::index);
        anyhow::ensure!(
            segments == last,
            "the scenario's profile has {segments} segments of {model}, the model in {} has {last}",
            arguments.models.display()
        );
    }
    let mut crowd = Crowd::new(&scenario, &stage.hardware.profiles, &stage.traces, arguments.seed)?;

    let mut driver = Driver {
        payloads: line::Payloads::new(&catalog),
        sent: HashMap::new(),
        lines,
        stretch: arguments.stretch,
        start: Instant::now(),
        emulated: false,
        lags: hdrhistogram::Histogram::new_with_bounds(1, 60_000_000, 3)?,
        most: 0,
    };
    let shown = std::io::stderr().is_terminal();
    let end = scenario.duration_s * arguments.stretch;
    let (outcomes, mut inbox) = mpsc::channel(OUTCOMES);
    let (describing, mut described) = mpsc::channel::<(String, Description)>(64);
    let names: Vec<(String, ModelId)> = models
        .iter()
        .map(|name| Ok(((*name).to_owned(), entry(name)?.info.id)))
        .collect::<anyhow::Result<_>>()?;
    // Clients know what the server needs before the first of them asks.
    for (name, id) in &names {
        let description = driver.lines[0]
            .describe(*id)
            .await
            .with_context(|| name.clone())?;
        driver.heard(&mut crowd, name, &description);
    }
    tokio::spawn(driver.lines[0].clone().describe_again(
        names,
        DESCRIBE_EVERY.duration().mul_f64(arguments.stretch),
        describing,
    ));
    let (watching, mut watched) = mpsc::channel::<(u32, bool)>(64);
    for number in 0..scenario.routers {
        tokio::spawn(Line::watch(driver.lines_from(number), number, watching.clone()));
    }
    driver.start = Instant::now();
    let mut doings = vec![];
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        // What came before now counts before what is given up now.
        for _ in 0..OUTCOMES {
            let Ok((id, at, outcome)) = inbox.try_recv() else {
                break;
            };
            driver.came_back(&mut crowd, id, at, outcome);
        }
        let now = driver.now();
        crowd.advance(now, &mut doings);
        for doing in doings.drain(..) {
            if let Err(unsent) = driver.does(doing, &outcomes) {
                crowd.lost(now, unsent);
            }
        }
        if crowd.is_over(now)
            || driver.start.elapsed().as_secs_f64()
                > end + PATIENCE.as_secs_f64() * arguments.stretch.max(1.0)
        {
            break;
        }
        let next = crowd.next_at().map(|at| driver.real(at));
        tokio::select! {
            outcome = inbox.recv() => {
                if let Some((id, at, outcome)) = outcome {
                    driver.came_back(&mut crowd, id, at, outcome);
                }
            }
            Some((router, there)) = watched.recv() => crowd.router_is_there(router, there),
            Some((name, description)) = described.recv() => driver.heard(&mut crowd, &name, &description),
            () = sleep_until(next) => {}
            _ = tick.tick() => if shown { driver.show(&crowd, end) },
        }
    }
    if shown {
        eprint!("\r{:100}\r", "");
    }
    let measured = driver.measured(arguments.router.clone());
    let report = crowd.finish();
    if let Some(path) = &arguments.html {
        let page = crate::simulate::page::html(&report, &text::text(&report, &measured));
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    if arguments.json {
        let mut object = serde_json::to_value(&report)?;
        object["load"] = serde_json::to_value(&measured)?;
        print(object)?;
    } else {
        print(text::text(&report, &measured).trim_end())?;
    }
    Ok(Verdict::Yes)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What became of a request, and when.
type Came = (RequestId, Instant, Outcome);

/// A driver, which sends what the crowd of clients says.
struct Driver {
    lines: Vec<Line>,
    payloads: line::Payloads,
    /// Requests that are waited for, with handles of their tasks.
    sent: HashMap<RequestId, AbortHandle>,
    stretch: f64,
    start: Instant,
    emulated: bool,
    /// Times by which requests were sent too late, in microseconds.
    lags: hdrhistogram::Histogram<u64>,
    most: usize,
}

impl Driver {
    /// Time now, in the scenario's time.
    fn now(&self) -> Nanos {
        self.at(Instant::now())
    }

    /// A real time, in the scenario's.
    fn at(&self, real: Instant) -> Nanos {
        let since = real.saturating_duration_since(self.start);
        Nanos((since.as_nanos() as f64 / self.stretch) as u64)
    }

    /// Real time of a point in the scenario's time.
    fn real(&self, at: Nanos) -> Instant {
        self.start + at.duration().mul_f64(self.stretch)
    }

    /// All routers, a client's own first.
    fn lines_from(&self, router: u32) -> Vec<Line> {
        let (own, count) = (router as usize, self.lines.len());
        (0..count)
            .map(|i| self.lines[(own + i) % count].clone())
            .collect()
    }

    fn heard(&mut self, crowd: &mut Crowd, name: &str, description: &Description) {
        self.emulated = description.emulated;
        let here = |list: &[f64]| list.iter().map(|ms| ms / self.stretch).collect();
        crowd.hears(name, here(&description.server_ms), here(&description.price));
    }

    /// Does one thing that the crowd says. `Err`: this request can't be sent; it counts as lost.
    fn does(&mut self, doing: Doing, outcomes: &mpsc::Sender<Came>) -> Result<(), RequestId> {
        match doing {
            Doing::GiveUp(id) => {
                // Dropping a call takes the request back.
                if let Some(call) = self.sent.remove(&id) {
                    call.abort();
                }
            }
            Doing::Send(sending) => {
                let late = self.now() - sending.due;
                let late_us = late.0 as f64 / 1e3 * self.stretch;
                self.lags.saturating_record((late_us as u64).max(1));
                let id = sending.id;
                let budget = sending.budget.duration().mul_f64(self.stretch);
                if self.sent.len() >= MOST_IN_FLIGHT {
                    return Err(id);
                }
                let (header, payload) = self.payloads.of(&sending, budget).ok_or(id)?;
                let lines = self.lines_from(sending.router);
                let call = Line::infer(lines, id, sending.router, header, payload, budget + GRACE);
                let outcomes = outcomes.clone();
                let task = tokio::spawn(async move {
                    let outcome = call.await;
                    // The other end is only gone when all is over.
                    let _over = outcomes.send((id, Instant::now(), outcome)).await;
                });
                self.sent.insert(id, task.abort_handle());
                self.most = self.most.max(self.sent.len());
            }
        }
        Ok(())
    }

    fn came_back(&mut self, crowd: &mut Crowd, id: RequestId, at: Instant, outcome: Outcome) {
        self.sent.remove(&id);
        // When it came, not when it was looked at.
        let now = self.at(at);
        match outcome {
            Outcome::Answered(epoch) => crowd.comes_back(now, id, Ok(epoch)),
            Outcome::Refused(status) => crowd.comes_back(now, id, Err(status)),
            Outcome::Lost(router) => {
                crowd.router_is_there(router, false);
                crowd.lost(now, id);
            }
        }
    }

    fn show(&self, crowd: &Crowd, end: f64) {
        let (inferences, in_time, sent, server) = crowd.seen();
        let mut err = std::io::stderr();
        // Progress that can't be shown is no reason to stop.
        let _shown = write!(
            err,
            "\r{:.0} of {end:.0} s: {inferences} inferences, {in_time} in time; {sent} sent, {server} answered in time, {} under way   ",
            self.start.elapsed().as_secs_f64(),
            self.sent.len()
        )
        .and_then(|()| err.flush());
    }

    fn measured(&self, routers: Vec<String>) -> Measured {
        let at = |q: f64| self.lags.value_at_quantile(q) as f64 / 1e3;
        Measured {
            routers,
            stretch: self.stretch,
            emulated: self.emulated,
            lag: Lag {
                p50_ms: at(0.5),
                p99_ms: at(0.99),
                max_ms: at(1.0),
            },
            most_in_flight: self.most,
        }
    }
}
