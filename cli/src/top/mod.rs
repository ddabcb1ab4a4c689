//! `graft top`: what a site does, live.

mod draw;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use graft_planner::Status;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};

use crate::Verdict;
use crate::ask;
use crate::output::line;

/// Watch a site live: its plan, what is asked for, what becomes of it, and how busy its partitions are.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The address at which the planner is administered (`admin`, or its HTTP address)
    #[arg(long, value_name = "HOST:PORT")]
    planner: String,
    #[command(flatten)]
    shown: ask::Shown,
    /// Look so often, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
    /// Print what there is to see once, and end; so it is where there is no terminal
    #[arg(long)]
    once: bool,
    /// JSON, once
    #[arg(long)]
    json: bool,
}

/// Size of the picture, in columns and rows, where there is no terminal.
const PLAIN: (u16, u16) = (120, 50);

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        (0.1..=3600.0).contains(&arguments.every),
        "--every is {}; expected 0.1 to 3600 seconds",
        arguments.every
    );
    let look = || ask::get::<Status>(&arguments.planner, &arguments.shown, "/v1/status");
    let first = look()?;
    if arguments.json {
        line(serde_json::to_string(&first)?)?;
    } else if arguments.once || !std::io::stdout().is_terminal() {
        line(plain(&first)?)?;
    } else {
        watch(first, &look, Duration::from_secs_f64(arguments.every))?;
    }
    Ok(Verdict::Yes)
}

/// Draws until it is ended with q, escape or control-C. A planner that is away is waited for.
fn watch(first: Status, look: &dyn Fn() -> anyhow::Result<Status>, every: Duration) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut seen = first;
    let mut trouble: Option<String> = None;
    let outcome = loop {
        if let Err(error) = terminal.draw(|frame| draw::frame(frame, &seen, trouble.as_deref())) {
            break Err(error.into());
        }
        match ended_within(every) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error.into()),
        }
        trouble = match look() {
            Ok(status) => {
                seen = status;
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
    };
    ratatui::try_restore()?;
    outcome
}

fn ended_within(time: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !event::poll(left)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) => {
                let control_c = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
                if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}

/// The same picture as text.
fn plain(status: &Status) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(PLAIN.0, PLAIN.1))?;
    terminal.draw(|frame| draw::frame(frame, status, None))?;
    let buffer = terminal.backend().buffer();
    let width = usize::from(PLAIN.0);
    let symbols: Vec<&str> = buffer.content().iter().map(|c| c.symbol()).collect();
    let lines = symbols
        .chunks(width)
        .map(|row| row.concat().trim_end().to_owned());
    let text = lines.collect::<Vec<String>>().join("\n");
    Ok(text.trim_end().to_owned())
}
