//! Head + tail against the whole, in one run. `cargo bench -p graft-engine [-- MODEL.onnx]`

use std::path::PathBuf;

use graft_engine::{Engine, PartitionShape, RtenEngine, time_ranges, usable_cores};
use graft_files::read_model;
use graft_model::{CutPoint, StageRange};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let file = given.map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../../models/efficientnet-lite0/efficientnet-lite0.onnx")
        },
        PathBuf::from,
    );
    let engine = RtenEngine::new();
    let model = read_model(&file, &Default::default())?;
    engine.load(&model)?;
    let info = model.info();
    let cores = usable_cores();
    let partition = engine.open_partition(&PartitionShape::cores(&cores[..1]))?;
    let whole = info.whole().ok_or("no layers")?;
    let mut plans = vec![vec![whole]];
    let inner: Vec<CutPoint> = info.cut_points().skip(1).take(info.cuts.len() - 2).collect();
    for &at in &inner {
        plans.push(
            [StageRange::new(CutPoint(0), at), info.tail(at)]
                .into_iter()
                .flatten()
                .collect(),
        );
    }
    let times = time_ranges(&engine, partition, info, &plans, 1, 15)?;
    println!("whole: {:.3} ms (median, one core, batch 1)", times[0]);
    let mut ratios: Vec<f64> = times[1..].iter().map(|t| t / times[0]).collect();
    for (at, ratio) in inner.iter().zip(&ratios) {
        println!("cut point {at:>3}: head + tail takes {ratio:.3} of the whole");
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    ratios.sort_by(f64::total_cmp);
    println!(
        "head + tail / whole: mean {mean:.3}, median {:.3}, worst {:.3} (to reach: 1.05)",
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1]
    );
    Ok(())
}
