//! What becomes of batches that were on the device when a fault spoiled it.

mod common;

use graft_cuda::softgpu_plan;
use graft_engine::{Engine, EngineError, Held, PartitionShape};
use graft_model::{Batch, CutPoint, Model, ReadOptions, StageRange, samples};

#[test]
fn a_batch_from_before_a_reset_is_gone_and_costs_the_next_ones_nothing() {
    let cuda = common::softgpu();
    let part = cuda.open_partition(&PartitionShape::units(2)).unwrap();
    let network = Model::parse("mlp".as_ref(), &samples::mlp(3, 24), &ReadOptions::default()).unwrap();
    cuda.load(&network).unwrap();
    let info = network.info();
    let (whole, middle) = (info.whole().unwrap(), CutPoint(2));
    let input = Batch::pseudo_random(info.inputs(), 1, 7);
    let before = cuda.run(part, info.id, whole, input.clone()).unwrap();
    let head = StageRange::new(CutPoint(0), middle).unwrap();
    let tail = info.tail(middle).unwrap();
    let run_head = || cuda.run_held(part, info.id, head, Held::Host(input.clone()));
    let (first, second) = (run_head().unwrap(), run_head().unwrap());

    softgpu_plan(cuda.gpu().ordinal, "fail_after=0").unwrap();
    let failed = cuda.run(part, info.id, whole, input.clone()).unwrap_err();
    assert!(
        matches!(failed, EngineError::Device { lost: false, .. }),
        "{failed}"
    );

    // The device is sound again; what was on it is not read, and no further reset follows.
    let kept = run_head().unwrap();
    for error in [
        cuda.run_held(part, info.id, tail, first).map(drop),
        second.into_host().map(drop),
    ] {
        let error = error.unwrap_err();
        assert!(
            matches!(error, EngineError::Device { lost: false, .. }),
            "{error}"
        );
    }
    let after = cuda
        .run_held(part, info.id, tail, kept)
        .unwrap()
        .into_host()
        .unwrap();
    assert_eq!(after, before);
}
