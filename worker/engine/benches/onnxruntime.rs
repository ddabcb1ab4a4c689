//! The engine on onnxruntime against onnxruntime's own session on the whole file, in one run:
//! `cargo bench -p graft-engine --bench onnxruntime -- MODEL.onnx…`
//!
//! Prints ratios of speed (plain time / engine's time; 1: as fast) for the whole network in one range, for tails, and for four
//! chunks at the narrowest cut points; and of memory, ten ranges loaded against one plain session.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use graft_engine::{Engine, Gives, OnnxRuntimeEngine, PartitionShape, Reference, RtenEngine, usable_cores};
use graft_files::read_model;
use graft_model::{Batch, CutPoint, Model, ModelInfo, StageRange};

/// Batches that are timed.
const BATCHES: [usize; 3] = [1, 4, 8];
/// Time that one comparison takes, in seconds.
const SECONDS: f64 = 2.0;
/// Fewest runs of each in it.
const RUNS: usize = 6;
/// Runs of one before the other has its turn.
const BLOCK: usize = 3;
/// Time between two such blocks.
const PAUSE: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let first = arguments.next();
    if first.as_deref() == Some("--memory") {
        let (kind, file) = (arguments.next(), arguments.next());
        return memory_of(&kind.ok_or("no kind")?, file.ok_or("no file")?.into());
    }
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../models/efficientnet-lite0/efficientnet-lite0.onnx");
    let files: Vec<PathBuf> = first.into_iter().chain(arguments).map(PathBuf::from).collect();
    let files = if files.is_empty() { vec![own] } else { files };
    let engine = match OnnxRuntimeEngine::open(None, None) {
        Ok(engine) => engine,
        Err(missing) => {
            println!("nothing to compare: {missing}");
            return Ok(());
        }
    };
    println!("{}", engine.library().display());
    println!(
        "{:<22} {:>5} {:>5} {:>10}  ratios of speed: whole, tails from 1/4, 1/2, 3/4, four chunks; the whole on rten",
        "model", "cores", "batch", "plain ms"
    );
    let all = usable_cores();
    let mut counts = vec![1, all.len()];
    counts.dedup();
    for file in &files {
        let model = read_model(file, &Default::default())?;
        engine.load(&model)?;
        for &cores in &counts {
            for batch in BATCHES {
                compare(&engine, &model, &all[..cores], batch)?;
            }
        }
        engine.unload(model.info().id)?;
    }
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let measured = |kind: &str, exact: bool| -> Result<f64, Box<dyn Error>> {
            let mut child = std::process::Command::new(std::env::current_exe()?);
            if exact {
                // glibc gives what is freed back to the system then, instead of keeping it for later.
                child.env("MALLOC_MMAP_THRESHOLD_", "65536");
            }
            let out = child.args(["--memory", kind]).arg(file).output()?;
            Ok(String::from_utf8(out.stdout)?.trim().parse()?)
        };
        for (what, exact) in [("in use", true), ("resident", false)] {
            let base = measured("none", exact)?;
            let [plain, ranges] = [
                measured("plain", exact)? - base,
                measured("ranges", exact)? - base,
            ];
            println!(
                "{name:<22} memory {what}: one plain session {plain:.0} MB, ten ranges {ranges:.0} MB: ratio {:.2}",
                ranges / plain
            );
        }
    }
    Ok(())
}

/// Confined to the cores, as the engine's threads are.
fn compare(
    engine: &OnnxRuntimeEngine,
    model: &Model,
    cores: &[usize],
    batch: usize,
) -> Result<(), Box<dyn Error>> {
    let info = model.info();
    let whole = info.whole().ok_or("no layers")?;
    graft_engine::pin_current_thread(cores)?;
    let partition = engine.open_partition(&PartitionShape::cores(cores))?;
    let input = Batch::pseudo_random(info.inputs(), batch, 1);
    let mut ratios = vec![];
    let mut timed =
        |plain: &mut Reference, ranges: &[StageRange], input: &Batch| -> Result<f64, Box<dyn Error>> {
            let (mut ours, mut theirs) = (vec![], vec![]);
            let start = Instant::now();
            while ours.len() < RUNS || start.elapsed().as_secs_f64() < SECONDS {
                block(&mut theirs, || {
                    let input = input.clone();
                    let began = Instant::now();
                    plain.run(input)?;
                    Ok(began.elapsed())
                })?;
                block(&mut ours, || {
                    let mut tensor = input.clone();
                    let began = Instant::now();
                    for &range in ranges {
                        tensor = engine.run(partition, info.id, range, tensor)?;
                    }
                    Ok(began.elapsed())
                })?;
            }
            let (ours, theirs) = (median(ours), median(theirs));
            ratios.push(theirs / ours);
            Ok(theirs)
        };
    let mut plain = engine.reference(model, cores.len(), Gives::Output)?;
    let plain_ms = timed(&mut plain, &[whole], &input)?;
    for quarter in 1..4 {
        let at = by_flops(info, quarter as f64 / 4.0);
        let (Some(head), Some(tail)) = (StageRange::new(CutPoint(0), at), info.tail(at)) else {
            continue;
        };
        let middle = engine.run(partition, info.id, head, input.clone())?;
        let mut plain = engine.reference_of(model, tail, cores.len())?;
        timed(&mut plain, &[tail], &middle)?;
    }
    timed(&mut plain, &chunks(info), &input)?;
    ratios.push(on_rten(&mut plain, model, cores, &input)?);
    engine.close_partition(partition)?;
    let name = info
        .file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let shown: Vec<String> = ratios.iter().map(|r| format!("{r:.2}")).collect();
    println!(
        "{name:<22} {:>5} {batch:>5} {plain_ms:>10.2}  {}",
        cores.len(),
        shown.join(" ")
    );
    graft_engine::pin_current_thread(&usable_cores())?;
    Ok(())
}

/// The speed of rten on the whole network, against the plain session.
fn on_rten(
    plain: &mut Reference,
    model: &Model,
    cores: &[usize],
    input: &Batch,
) -> Result<f64, Box<dyn Error>> {
    let (rten, info) = (RtenEngine::new(), model.info());
    rten.load(model)?;
    let partition = rten.open_partition(&PartitionShape::cores(cores))?;
    let whole = info.whole().ok_or("no layers")?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    block(&mut theirs, || {
        let began = Instant::now();
        plain.run(input.clone())?;
        Ok(began.elapsed())
    })?;
    block(&mut ours, || {
        let began = Instant::now();
        rten.run(partition, info.id, whole, input.clone())?;
        Ok(began.elapsed())
    })?;
    Ok(median(theirs) / median(ours))
}

/// Runs something a few times; the first run is not counted. Threads of onnxruntime's own sessions wait in a loop for a
/// while after a run, and would take the cores of what is timed next: so there is a pause first.
fn block(
    times: &mut Vec<f64>,
    mut run: impl FnMut() -> Result<Duration, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    std::thread::sleep(PAUSE);
    run()?;
    for _ in 0..BLOCK {
        times.push(run()?.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// The first cut point before which a part of the arithmetic is done.
fn by_flops(info: &ModelInfo, part: f64) -> CutPoint {
    let all: u64 = info.segments.iter().map(|s| s.flops).sum();
    let mut sum = 0;
    for (segment, at) in info.segments.iter().zip(info.cut_points().skip(1)) {
        sum += segment.flops;
        if sum as f64 >= all as f64 * part && at < info.last() {
            return at;
        }
    }
    CutPoint(info.last().0 - 1)
}

/// Four ranges: in each quarter's neighbourhood the cut point with the fewest elements, of several the last: what follows a
/// convolution's sum, an activation say, runs within it.
fn chunks(info: &ModelInfo) -> Vec<StageRange> {
    let mut places = vec![CutPoint(0)];
    for quarter in 1..4 {
        let [low, high] = [-0.08, 0.08].map(|d| by_flops(info, quarter as f64 / 4.0 + d));
        let near = info.cut_points().filter(|at| (low..=high).contains(at));
        if let Some(at) = near.min_by_key(|at| (info.cuts[at.index()].elements(), std::cmp::Reverse(*at)))
            && places.last().is_some_and(|last| *last < at)
        {
            places.push(at);
        }
    }
    places.push(info.last());
    places
        .windows(2)
        .filter_map(|w| StageRange::new(w[0], w[1]))
        .collect()
}

/// Prints the process' memory in MB with nothing, one plain session, or ten ranges loaded, after a run of each.
fn memory_of(kind: &str, file: PathBuf) -> Result<(), Box<dyn Error>> {
    let engine = OnnxRuntimeEngine::open(None, None)?;
    let model = read_model(&file, &Default::default())?;
    let info = model.info().clone();
    let whole = info.whole().ok_or("no layers")?;
    let input = Batch::pseudo_random(info.inputs(), 1, 1);
    let mut plain = None;
    match kind {
        "plain" => {
            let mut session = engine.reference(&model, 1, Gives::Output)?;
            session.run(input)?;
            plain = Some(session);
        }
        "ranges" => {
            engine.load(&model)?;
            let partition = engine.open_partition(&PartitionShape::cores(&usable_cores()[..1]))?;
            let mut tensor = input.clone();
            engine.run(partition, info.id, whole, input)?;
            let count = info.segments.len();
            let (mut last, mut tails) = (0, vec![]);
            for part in 1..=3 {
                let at = CutPoint((count * part / 4) as u16);
                tails.extend(info.tail(at));
            }
            for part in 1..=6 {
                let end = count * part / 6;
                if let Some(range) = StageRange::new(CutPoint(last as u16), CutPoint(end as u16)) {
                    if let Some(tail) = tails.iter().find(|t| t.from() == range.from()) {
                        engine.run(partition, info.id, *tail, tensor.clone())?;
                    }
                    tensor = engine.run(partition, info.id, range, tensor)?;
                    last = end;
                }
            }
            engine.prepare(partition, info.id, &tails)?;
        }
        _ => {}
    }
    drop(model);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .ok_or("no RssAnon")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    println!("{}", kilobytes / 1e3);
    drop(plain);
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
