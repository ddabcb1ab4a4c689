//! A device of this worker at work: its engine, what runs cost there, the partitions that are fenced off.

use std::collections::BTreeSet;
use std::sync::Arc;

use graft_engine::{Engine, PartitionShape};
use graft_model::ModelId;
use graft_plan::{Partition, Plan, Profile, Stage};
use graft_wire::WorkerPlan;
use graft_worker_core::{Admission, CostCorrections, PartitionSpec};

use crate::device::Device;
use crate::fence::{Fence, Fences};
use crate::observed::Observed;
use crate::plan_refused::PlanRefused;

/// A device of this worker at work.
pub(crate) struct Station {
    /// Id in plans.
    pub id: String,
    pub engine: Arc<dyn Engine>,
    profile: Profile,
    whole: PartitionShape,
    /// For weights.
    memory_bytes: u64,
    /// Partitions that are fenced off: weights and threads are shared by all plans.
    fences: Fences,
    pub observed: Arc<Observed>,
}

/// A partition of a plan that runs here, checked.
pub(crate) struct Part<'p> {
    /// Its place in the plan.
    pub place: usize,
    pub partition: &'p Partition,
    pub spec: PartitionSpec,
    /// By stage.
    pub models: Vec<ModelId>,
    pub shape: PartitionShape,
}

impl Station {
    pub fn new(device: &Device) -> Self {
        Station {
            id: device.id.clone(),
            engine: Arc::clone(&device.engine),
            profile: device.profile.clone(),
            whole: device.whole.clone(),
            memory_bytes: device.memory_bytes,
            fences: Fences::default(),
            observed: Arc::new(Observed::of_kind(&device.kind)),
        }
    }

    /// What runs take here, of what was measured at first, as a plan says.
    pub fn corrections(&self, work: &WorkerPlan) -> CostCorrections {
        CostCorrections::new(&work.corrections, &self.profile.device_kind)
    }

    /// The partitions of a plan that run here. `Err`: why one can't.
    pub fn parts<'p>(
        &self,
        plan: &'p Plan,
        corrections: &CostCorrections,
    ) -> Result<Vec<Part<'p>>, PlanRefused> {
        let profile = corrections.apply(&self.profile);
        let stages = plan.stages_by_id();
        let mut taken = 0;
        let mut parts = vec![];
        let own = plan.partitions.iter().enumerate();
        for (place, partition) in own.filter(|(_, p)| p.device == self.id) {
            let spec = PartitionSpec::of_plan(plan, partition, &profile, Admission::On)?;
            let models = partition.stages.iter().map(|id| {
                let stage = stages.get(id.as_str());
                self.runs(stage.ok_or_else(|| PlanRefused::NoStage(id.clone()))?)
            });
            let share = partition.share.0;
            let shape = self.whole.part(taken, share).ok_or(PlanRefused::Share {
                device: self.id.clone(),
                have: self.whole.share(),
            })?;
            taken += share;
            parts.push(Part {
                place,
                partition,
                spec,
                models: models.collect::<Result<_, _>>()?,
                shape,
            });
        }
        Ok(parts)
    }

    /// A stage's model, which the engine has.
    fn runs(&self, stage: &Stage) -> Result<ModelId, PlanRefused> {
        let model = stage.model.parse().map_err(|error| PlanRefused::NoModel {
            stage: stage.id.clone(),
            model: stage.model.clone(),
            error,
        })?;
        let info = self.engine.info(model).map_err(|error| PlanRefused::NotLoaded {
            stage: stage.id.clone(),
            error: Box::new(error),
        })?;
        if stage.to > info.last() {
            return Err(PlanRefused::BeyondLastCut {
                stage: stage.id.clone(),
                last: info.last(),
            });
        }
        Ok(model)
    }

    /// The partition of a shape, fenced off now if it is not yet.
    pub fn open(&mut self, shape: &PartitionShape) -> Result<Arc<Fence>, PlanRefused> {
        let opened = self.fences.open(&self.engine, shape);
        opened.map_err(|error| PlanRefused::Partition(Box::new(error)))
    }

    /// Whether the weights of all that a plan runs here have room: each segment's count once.
    pub fn fits_memory(&self, plan: &Plan) -> Result<(), PlanRefused> {
        let stages = plan.stages_by_id();
        let own = plan.partitions.iter().filter(|p| p.device == self.id);
        let mut segments = BTreeSet::new();
        for stage in own
            .flat_map(|p| &p.stages)
            .filter_map(|id| stages.get(id.as_str()))
        {
            let range = usize::from(stage.from.0)..usize::from(stage.to.0);
            segments.extend(range.map(|k| (stage.model.as_str(), k)));
        }
        let weights = |(model, k): &(&str, usize)| {
            let segment = self.profile.models.get(*model).and_then(|m| m.segments.get(*k));
            segment.map_or(0, |s| s.weights_bytes)
        };
        let bytes: u64 = segments.iter().map(weights).sum();
        if bytes > self.memory_bytes {
            return Err(PlanRefused::Memory {
                device: self.id.clone(),
                bytes,
                have: self.memory_bytes,
            });
        }
        Ok(())
    }
}
