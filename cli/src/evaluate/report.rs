//! Tables and plots of what was measured.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::experiments::{Results, Row, Varied};
use super::scenarios::Burst;
use crate::plot::{Series, bars, lines};

/// Distinct values in the order of their first appearance.
fn seen<'a, T>(list: &'a [T], of: impl Fn(&'a T) -> &'a str) -> Vec<String> {
    let mut values: Vec<String> = vec![];
    for item in list {
        if !values.iter().any(|v| v == of(item)) {
            values.push(of(item).to_owned());
        }
    }
    values
}

fn row<'a>(rows: &'a [Row], profile: &str, workload: &str, algorithm: &str) -> Option<&'a Row> {
    rows.iter()
        .find(|r| r.profile == profile && r.workload == workload && r.algorithm == algorithm)
}

/// Share of a plan that can be compared: the simulation certifies it, and it serves all that Graft serves.
fn comparable(rows: &[Row], profile: &str, workload: &str, algorithm: &str) -> Option<u64> {
    let graft = row(rows, profile, workload, "graft")?;
    let other = row(rows, profile, workload, algorithm)?;
    (other.certified && other.infeasible == graft.infeasible).then_some(other.share)
}

/// Name and content of each plot.
pub(super) fn plots(results: &Results) -> Vec<(String, String)> {
    let mut plots = vec![];
    let algorithms = ["graft", "nexus", "paper", "gslice+", "gslice", "static"];
    for profile in seen(&results.shares, |r| &r.profile) {
        let of: Vec<Row> = results
            .shares
            .iter()
            .filter(|r| r.profile == profile)
            .cloned()
            .collect();
        let workloads = seen(&of, |r| &r.workload);
        let series = |algorithm: &str| Series {
            name: algorithm.to_owned(),
            values: workloads
                .iter()
                .map(|w| comparable(&of, &profile, w, algorithm).map(|s| s as f64))
                .collect(),
        };
        let all: Vec<Series> = algorithms.iter().map(|a| series(a)).collect();
        let title = format!("Share at ≥ 99.9% in time, {profile}");
        plots.push((
            format!("share-{profile}.svg"),
            bars(&title, "share", &workloads, &all),
        ));
    }
    for (profile, what) in varied(results) {
        let of = |v: &&Varied| v.profile == profile && v.what == what;
        let list: Vec<Varied> = results.sensitivity.iter().filter(of).cloned().collect();
        let mut values: Vec<f64> = list.iter().map(|v| v.value).collect();
        values.dedup();
        let series = |algorithm: String| {
            let at = |value: &f64| {
                list.iter()
                    .find(|v| v.value == *value && v.algorithm == algorithm)
            };
            let values = values
                .iter()
                .map(|v| at(v).filter(|v| v.certified).map(|v| v.share as f64))
                .collect();
            Series {
                name: algorithm,
                values,
            }
        };
        let all: Vec<Series> = seen(&list, |v| &v.algorithm).into_iter().map(series).collect();
        let places: Vec<String> = values.iter().map(ToString::to_string).collect();
        let title = format!("Share, {what} …, {profile}");
        plots.push((
            format!("{}-{profile}.svg", file_name(&what)),
            lines(&title, &what, "share", &places, &all),
        ));
    }
    for profile in seen(&results.bursts, |b| &b.profile) {
        let list: Vec<&Burst> = results.bursts.iter().filter(|b| b.profile == profile).collect();
        let mut sizes: Vec<f64> = list.iter().map(|b| b.size).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        let series = |algorithm: String| {
            let at = |size: &f64| list.iter().find(|b| b.size == *size && b.algorithm == algorithm);
            Series {
                values: sizes.iter().map(|s| Some(at(s)?.share? as f64)).collect(),
                name: algorithm,
            }
        };
        let all: Vec<Series> = seen(&results.bursts, |b| &b.algorithm)
            .into_iter()
            .map(series)
            .collect();
        let places: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        plots.push((
            format!("bursts-{profile}.svg"),
            lines(
                &format!("Share, bursts of …, {profile}"),
                "requests of a burst, in the mean",
                "share",
                &places,
                &all,
            ),
        ));
    }
    plots
}

fn varied(results: &Results) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> = vec![];
    for v in &results.sensitivity {
        let key = (v.profile.clone(), v.what.clone());
        if !list.contains(&key) {
            list.push(key);
        }
    }
    list
}

fn file_name(what: &str) -> String {
    what.split([',', ' ']).next().unwrap_or("varied").to_owned()
}

pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::from(
        "# Evaluation of the planner\n\nMade by `graft evaluate`; the same data make the same report but for Graft's rows, which depend on how long it searches.\nEvery plan is held against the rules and run by the reference simulation (three seeds of 120 s each); a figure in\nbrackets is of a plan that is not certified, or that leaves out what Graft serves. Costs are shares of a device, in the\nprofile's unit. *Profiles that are modelled make modelled results.*\n",
    );
    efforts(&mut text, results);
    shares(&mut text, results);
    equal_share(&mut text, results);
    sensitivity(&mut text, results);
    bursts(&mut text, results);
    lived(&mut text, results);
    times(&mut text, results);
    gaps(&mut text, results);
    text.push_str("\n## What can't be concluded\n\n- But for the bursts, arrivals are Poisson, and chunks take exactly what profiles say: how plans fare under latencies that\n  vary is for load tests to say.\n- Where a whole workload fits the smallest share or two, algorithms can't differ by less than one such share.\n- The optimum is one over a stated grid, under the analytic test; small inputs say little of large ones.\n- Baselines keep to the structure of the systems they are named after; they are not those systems.\n");
    text
}

/// How long Graft searched.
fn efforts(text: &mut String, results: &Results) {
    let mut by_length: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (profile, ms) in &results.efforts {
        by_length.entry(*ms).or_default().push(profile);
    }
    for (ms, profiles) in by_length {
        let _infallible = writeln!(
            text,
            "\nGraft searched for {} s for up to a hundred phones, for more phones longer by the square root of their number ({}).",
            ms as f64 / 1e3,
            profiles.join(", ")
        );
    }
}

fn shares(text: &mut String, results: &Results) {
    let rows = &results.shares;
    for profile in seen(rows, |r| &r.profile) {
        let of: Vec<Row> = rows.iter().filter(|r| r.profile == profile).cloned().collect();
        let algorithms = seen(&of, |r| &r.algorithm);
        let _infallible = writeln!(
            text,
            "\n## Share at ≥ 99.9% in time: {profile}\n\n![](share-{profile}.svg)\n"
        );
        let _infallible = writeln!(text, "| workload | phones | bound | {} |", algorithms.join(" | "));
        let _infallible = writeln!(text, "|---|---|---|{}", "---|".repeat(algorithms.len()));
        let mut savings: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for workload in seen(&of, |r| &r.workload) {
            let Some(graft) = row(&of, &profile, &workload, "graft") else {
                continue;
            };
            let cells = algorithms.iter().map(|a| {
                let Some(other) = row(&of, &profile, &workload, a) else {
                    return String::new();
                };
                match comparable(&of, &profile, &workload, a) {
                    Some(share) => {
                        savings
                            .entry(a)
                            .or_default()
                            .push(1.0 - graft.share as f64 / share.max(1) as f64);
                        share.to_string()
                    }
                    None => format!("({})", other.share),
                }
            });
            let cells: Vec<String> = cells.collect();
            let _infallible = writeln!(
                text,
                "| {workload} | {} | {} | {} |",
                graft.phones,
                graft.bound,
                cells.join(" | ")
            );
        }
        let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64 * 100.0;
        let others = algorithms.iter().filter(|a| *a != "graft");
        let each: Vec<String> = others
            .filter_map(|a| Some(format!("{:.0}% less than {a}", mean(savings.get(a.as_str())?))))
            .collect();
        let _infallible = writeln!(
            text,
            "\nGraft takes, in the mean over these workloads, {}.",
            each.join(", ")
        );
    }
}

fn equal_share(text: &mut String, results: &Results) {
    if results.equal_share.is_empty() {
        return;
    }
    text.push_str("\n## In time with the share that Graft needs\n\nRequests of fragments that there is no room for count as late.\n\n| profile | workload | share | algorithm | in time |\n|---|---|---|---|---|\n");
    for r in &results.equal_share {
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2}% |",
            r.profile,
            r.workload,
            r.share,
            r.algorithm,
            r.attainment * 100.0
        );
    }
}

fn sensitivity(text: &mut String, results: &Results) {
    if results.sensitivity.is_empty() {
        return;
    }
    text.push_str("\n## When one thing changes\n\nThe workload of 100 phones, with its budgets or rates multiplied, or its partition points moved to the nearest of so many.\nWhat is not certified is left out of the plots.\n\n");
    for (profile, what) in varied(results) {
        let _infallible = writeln!(text, "![]({}-{profile}.svg)", file_name(&what));
    }
}

fn bursts(text: &mut String, results: &Results) {
    if results.bursts.is_empty() {
        return;
    }
    text.push_str("\n## When requests come in bursts\n\nThe workload of 100 phones, each of which sends bursts with a geometric number of requests, 2 ms apart, in a Poisson process of the same rate. Plans are made for\nPoisson arrivals of the rates times 1, 1.25, 1.6, 2, 3 or 5; the cheapest that keeps 99.9% of all and 99% of each in time counts. In brackets: times the rates, and what the plan for the real rates attains.\n\n| profile | requests of a burst | algorithm | share |\n|---|---|---|---|\n");
    for b in &results.bursts {
        let share = b.share.map_or("none".to_owned(), |s| s.to_string());
        let times = b.planned_for.map_or("–".to_owned(), |t| t.to_string());
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {share} ({times}; {:.2}%) |",
            b.profile,
            b.size,
            b.algorithm,
            b.unprepared * 100.0
        );
    }
    text.push('\n');
    for profile in seen(&results.bursts, |b| &b.profile) {
        let _infallible = writeln!(text, "![](bursts-{profile}.svg)");
    }
}

fn lived(text: &mut String, results: &Results) {
    if results.lived.is_empty() {
        return;
    }
    text.push_str("\n## Sites whose plans follow the phones\n\nScenarios played in virtual time (`graft simulate`), each algorithm planning again and again for what routers observe.\n\n| scenario | algorithm | share, mean | share, peak | in time at the server | of all inferences | plans | partitions kept | new or moved |\n|---|---|---|---|---|---|---|---|---|\n");
    for l in &results.lived {
        let _infallible = writeln!(
            text,
            "| {} | {} | {:.1} | {} | {:.2}% | {:.2}% | {} | {} | {} |",
            l.scenario,
            l.algorithm,
            l.mean_share,
            l.peak_share,
            l.server_attainment * 100.0,
            l.attainment * 100.0,
            l.plans,
            l.kept,
            l.changed
        );
    }
}

fn times(text: &mut String, results: &Results) {
    text.push_str("\n## Planning time\n\nSeconds until the plan was given out: Graft's searches end at the bound, or when their time is up.\n\n| profile | phones | workload | algorithm | seconds |\n|---|---|---|---|---|\n");
    let shown = ["graft", "nexus", "paper", "gslice+"];
    for r in results
        .shares
        .iter()
        .filter(|r| shown.contains(&r.algorithm.as_str()) && r.workload.starts_with("mixed"))
    {
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} |",
            r.profile, r.phones, r.workload, r.algorithm, r.seconds
        );
    }
}

fn gaps(text: &mut String, results: &Results) {
    if results.gaps.is_empty() {
        return;
    }
    let gap = |g: &super::experiments::Gap| g.graft as f64 / g.exact.max(1) as f64 - 1.0;
    let mean = results.gaps.iter().map(gap).sum::<f64>() / results.gaps.len() as f64;
    let worst = results.gaps.iter().map(gap).fold(0.0, f64::max);
    let same = results.gaps.iter().filter(|g| g.graft == g.exact).count();
    let _infallible = writeln!(
        text,
        "\n## Gap to the optimum\n\n{} random handfuls of fragments, both under the analytic test, Graft for 0.2 s each: {same} as cheap as the optimum; {:.2}% dearer in the mean, {:.1}% at worst.",
        results.gaps.len(),
        mean * 100.0,
        worst * 100.0
    );
}
