//! An engine that takes the time that a profile says instead of computing.
//!
//! For load tests of routers, planners and workers beyond what the machine could compute: what it gives back has the
//! right shape and means nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use graft_model::{Batch, Model, ModelId, ModelInfo, Precision, StageRange};
use graft_plan::{CostError, Profile, Share};

use crate::checks::check_input;
use crate::engine::{Engine, MemoryUse};
use crate::error::{Cause, EngineError, PartitionId};
use crate::shape::PartitionShape;

/// An engine that takes the time that a profile says.
pub struct EmulatedEngine {
    /// Profile that names models by their identity.
    profile: Profile,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: HashMap<ModelId, Arc<ModelInfo>>,
    partitions: HashMap<PartitionId, Device>,
    next: u32,
}

/// A partition, with the time by which its sleeps were too long so far.
struct Device {
    share: usize,
    over: Duration,
}

impl EmulatedEngine {
    /// An engine by a profile that names models by their identity; runs take its times as they are.
    pub fn new(profile: Profile) -> Self {
        EmulatedEngine {
            profile,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Engine for EmulatedEngine {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn load(&self, model: &Model) -> Result<(), EngineError> {
        let info = model.info();
        let fail = |cause: Cause| EngineError::Load {
            engine: "emulated",
            file: format!("{:?}", info.id),
            cause,
        };
        let known = self.profile.models.get(&info.id.to_string());
        let known = known.ok_or_else(|| fail(CostError::UnknownModel(info.id.to_string()).into()))?;
        if known.segments.len() != info.last().index() {
            return Err(fail(Cause::OtherProfile {
                profile: known.segments.len(),
                model: info.last().index(),
            }));
        }
        self.state().models.insert(info.id, Arc::clone(info));
        Ok(())
    }

    fn computes(&self) -> bool {
        false
    }

    /// All: nothing is computed.
    fn precisions(&self) -> &[Precision] {
        &[Precision::F32, Precision::F16, Precision::Int8]
    }

    fn load_in(&self, model: &Model, _: Precision) -> Result<(), EngineError> {
        self.load(model)
    }

    fn unload(&self, model: ModelId) -> Result<(), EngineError> {
        let gone = self.state().models.remove(&model);
        gone.map(|_| ()).ok_or(EngineError::NotLoaded(model))
    }

    fn info(&self, model: ModelId) -> Result<Arc<ModelInfo>, EngineError> {
        let found = self.state().models.get(&model).cloned();
        found.ok_or(EngineError::NotLoaded(model))
    }

    fn open_partition(&self, shape: &PartitionShape) -> Result<PartitionId, EngineError> {
        let share = Share(shape.share());
        if self.profile.share_index(share).is_none() {
            return Err(EngineError::Partition {
                shape: shape.clone(),
                cause: CostError::UnlistedShare(share).into(),
            });
        }
        let mut state = self.state();
        let id = PartitionId(state.next);
        state.next += 1;
        state.partitions.insert(
            id,
            Device {
                share: share.0 as usize,
                over: Duration::ZERO,
            },
        );
        Ok(id)
    }

    fn close_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let gone = self.state().partitions.remove(&partition);
        gone.map(|_| ()).ok_or(EngineError::NoPartition(partition))
    }

    fn run(
        &self,
        partition: PartitionId,
        model: ModelId,
        range: StageRange,
        batch: Batch,
    ) -> Result<Batch, EngineError> {
        let start = Instant::now();
        let info = self.info(model)?;
        let beyond = || EngineError::BeyondLastCut {
            range,
            last: info.last().index(),
        };
        let to = info.cut(range.to()).ok_or_else(beyond)?;
        check_input(&info, range.from(), &batch)?;
        let (share, over) = {
            let state = self.state();
            let device = state.partitions.get(&partition);
            let device = device.ok_or(EngineError::NoPartition(partition))?;
            (device.share, device.over)
        };
        let requests = batch.requests();
        let largest = self.profile.batches.last().copied().unwrap_or(1);
        let rows = u32::try_from(requests).unwrap_or(u32::MAX).min(largest);
        let time = self
            .profile
            .latency(&model.to_string(), range, rows, Share(share as u32), 0.0)
            .map_err(|e| EngineError::Run {
                range,
                cause: e.into(),
            })?
            .duration();
        let mut outputs = Batch::zeros(to, requests).into_tensors();
        for (output, passing) in outputs.iter_mut().zip(info.passing(range)) {
            if let Some(input) = passing.and_then(|at| batch.tensors().get(at)) {
                output.clone_from(input);
            }
        }
        let output = Batch::new(outputs)?;
        // The machine sleeps longer than it is asked to; the next sleep is shorter by that.
        std::thread::sleep(time.saturating_sub(over + start.elapsed()));
        let gone = start.elapsed();
        if let Some(device) = self.state().partitions.get_mut(&partition) {
            device.over = (over + gone).saturating_sub(time).min(time);
        }
        Ok(output)
    }

    fn memory(&self) -> MemoryUse {
        let state = self.state();
        let weights = |info: &Arc<ModelInfo>| info.segments.iter().map(|s| s.weights_bytes).sum::<u64>();
        MemoryUse {
            models: state.models.len(),
            weights_bytes: state.models.values().map(weights).sum(),
        }
    }

    fn threads(&self, partition: PartitionId) -> Result<usize, EngineError> {
        let state = self.state();
        let device = state.partitions.get(&partition);
        device.map(|_| 1).ok_or(EngineError::NoPartition(partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_model::CutPoint;
    use graft_plan::{ModelProfile, SegmentProfile, Source};

    /// A sample network, and an engine that takes `ms` for each of its segments on the smaller of two shares.
    fn sample(ms: f64) -> (Model, EmulatedEngine) {
        let (name, bytes) = graft_model::samples::all().remove(0);
        let model = Model::parse(name.as_ref(), &bytes, &graft_model::ReadOptions::default()).unwrap();
        let segment = SegmentProfile {
            weights_bytes: 0,
            flops: None,
            ms: [1.0, 1.5]
                .map(|batch| [1.0, 0.5].map(|share| ms * batch * share).to_vec())
                .to_vec(),
        };
        let count = model.info().last().index();
        let known = ModelProfile {
            cut_bytes: vec![0; count + 1],
            segments: vec![segment; count],
        };
        let engine = EmulatedEngine::new(Profile {
            version: 1,
            device_kind: "test".to_owned(),
            source: Source::Modelled,
            share_total: Share(4),
            shares: vec![Share(1), Share(2)],
            batches: vec![1, 2],
            stage_overhead_ms: 0.0,
            hop_ms: 0.0,
            models: [(model.info().id.to_string(), known)].into(),
        });
        (model, engine)
    }

    #[test]
    fn it_conforms() {
        let (model, engine) = sample(0.0);
        let failures = crate::conformance::check(&engine, &model, &PartitionShape::units(1)).unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn it_takes_as_long_as_the_profile_says_and_gives_the_right_shape() {
        let (model, engine) = sample(2.0);
        let info = Arc::clone(model.info());
        let count = info.last().index();
        engine.load(&model).unwrap();
        assert!(engine.open_partition(&PartitionShape::units(3)).is_err());
        let partition = engine.open_partition(&PartitionShape::units(1)).unwrap();
        let range = StageRange::new(CutPoint(0), info.last()).unwrap();
        let input = Batch::pseudo_random(info.inputs(), 2, 1);
        let start = Instant::now();
        for _ in 0..10 {
            let output = engine.run(partition, info.id, range, input.clone()).unwrap();
            assert_eq!(output.requests(), 2);
            assert!(output.fits(info.outputs()));
        }
        let want = 10.0 * 3.0 * count as f64 / 1e3;
        let took = start.elapsed().as_secs_f64();
        assert!(took > want * 0.98, "{took} s instead of {want} s");
    }
}
