//! `graft plan log`: a planner's decisions, what was expected of them, and what came of them.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use graft_planner_steer::{Decision, Outcome};

use crate::Verdict;
use crate::ask;
use crate::output::line;

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The address at which the planner is administered (`admin`, or its HTTP address)
    #[arg(long, value_name = "HOST:PORT")]
    planner: String,
    #[command(flatten)]
    shown: ask::Shown,
    /// The latest so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn log(arguments: &Log) -> anyhow::Result<Verdict> {
    let path = format!("/v1/decisions?limit={}", arguments.limit);
    let decisions: Vec<Decision> = ask::get(&arguments.planner, &arguments.shown, &path)?;
    if arguments.json {
        line(serde_json::to_string(&decisions)?)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        line(text(&decisions, now).trim_end())?;
    }
    Ok(Verdict::Yes)
}

/// A time ago, in words.
fn ago(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

pub(crate) fn outcome(decision: &Decision) -> String {
    match &decision.outcome {
        Outcome::RollingOut => "rolls out".to_owned(),
        Outcome::InUse => "in use".to_owned(),
        Outcome::Replaced => "replaced".to_owned(),
        Outcome::NotWorth => "not rolled out: it would save too little".to_owned(),
        Outcome::Overtaken => "overtaken by a newer plan".to_owned(),
        Outcome::Failed { why } => format!("failed: {why}"),
    }
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "?".to_owned(), |p| format!("{:.3}%", p * 100.0))
}

fn text(decisions: &[Decision], now_unix_ms: u64) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let mut say = |line: String| writeln!(text, "{line}").unwrap_or_default();
    if decisions.is_empty() {
        say("the planner has decided nothing yet".to_owned());
    }
    for decision in decisions {
        let p = &decision.predicted;
        let at = ago(now_unix_ms.saturating_sub(decision.at_unix_ms));
        say(format!("plan {}, {at}, {}", decision.epoch, outcome(decision)));
        say(format!("  why       {}", decision.cause));
        let before = p
            .share_before
            .map_or(String::new(), |b| format!(" (before: {b})"));
        let part = if p.part < 1.0 {
            format!(", {:.0}% of what is asked for", p.part * 100.0)
        } else {
            String::new()
        };
        let left_out = if p.infeasible > 0 {
            format!(", {} left out", p.infeasible)
        } else {
            String::new()
        };
        say(format!(
            "  expected  share {}{before}, {} fragments at {:.1} requests/s{part}{left_out}, {} in time; made in {:.0} ms",
            p.share,
            p.fragments,
            p.rate_rps,
            percent(p.attainment),
            p.planning_ms
        ));
        if let Some(m) = decision.measured.as_ref().filter(|m| m.outcomes.requests() > 0) {
            let ms = |v: Option<f64>| v.map_or_else(|| "?".to_owned(), |v| format!("{v:.1} ms"));
            let refused: Vec<String> = m
                .outcomes
                .refused
                .iter()
                .map(|(status, n)| format!("{n} {}", status.name()))
                .collect();
            let refused = if refused.is_empty() {
                String::new()
            } else {
                format!(", refused: {}", refused.join(", "))
            };
            say(format!(
                "  measured  {:.0} s, {} requests at {:.1}/s, {} in time, {} late{refused}; p50 {}, p99 {}",
                m.seconds,
                m.outcomes.requests(),
                m.rate_rps,
                percent(m.attainment),
                m.outcomes.late,
                ms(m.p50_ms),
                ms(m.p99_ms)
            ));
        }
    }
    text
}
