//! Partitions that are fenced off on a device: shared by all plans, given back when none has used them for long.

use std::collections::HashMap;
use std::sync::Arc;

use graft_engine::{Engine, EngineError, PartitionId, PartitionShape};

/// A partition that is fenced off on a device. It is given back when nobody holds it.
pub(crate) struct Fence {
    engine: Arc<dyn Engine>,
    id: PartitionId,
}

impl Fence {
    /// Fences a partition off.
    pub fn new(engine: &Arc<dyn Engine>, shape: &PartitionShape) -> Result<Self, EngineError> {
        Ok(Fence {
            id: engine.open_partition(shape)?,
            engine: Arc::clone(engine),
        })
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Its number in the engine.
    pub fn id(&self) -> PartitionId {
        self.id
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if let Err(error) = self.engine.close_partition(self.id) {
            tracing::warn!(%error, "a partition could not be given back");
        }
    }
}

/// Partitions of a device that stay fenced off at most, while no plan uses some of them. A GPU runs as many side by side at most: it has no
/// more connections for their streams.
pub(crate) const KEPT: usize = 32;

/// The partitions of a device that are fenced off.
#[derive(Default)]
pub(crate) struct Fences {
    known: HashMap<PartitionShape, (Arc<Fence>, u64)>,
    /// Uses so far.
    uses: u64,
}

impl Fences {
    /// The partition of a shape, fenced off now if it is not yet.
    pub fn open(
        &mut self,
        engine: &Arc<dyn Engine>,
        shape: &PartitionShape,
    ) -> Result<Arc<Fence>, EngineError> {
        self.uses += 1;
        if let Some((fence, used)) = self.known.get_mut(shape) {
            *used = self.uses;
            return Ok(Arc::clone(fence));
        }
        while self.known.len() >= KEPT && self.give_one_back() {}
        let fence = Arc::new(Fence::new(engine, shape)?);
        self.known.insert(shape.clone(), (Arc::clone(&fence), self.uses));
        Ok(fence)
    }

    /// Gives back the one that nobody uses whose last use is longest ago. `false`: all are in use.
    fn give_one_back(&mut self) -> bool {
        let idle = self
            .known
            .iter()
            .filter(|(_, (fence, _))| Arc::strong_count(fence) == 1);
        let oldest = idle
            .min_by_key(|(_, (_, used))| *used)
            .map(|(shape, _)| shape.clone());
        oldest.is_some_and(|shape| self.known.remove(&shape).is_some())
    }
}

#[cfg(test)]
mod tests {
    use graft_engine::{RtenEngine, usable_cores};

    use super::*;

    #[test]
    fn partitions_of_retired_plans_are_given_back_at_the_bound_and_those_in_use_never() {
        let engine: Arc<dyn Engine> = Arc::new(RtenEngine::new());
        let core = usable_cores()[0];
        // As many shapes of one core as are wanted: the core, told again and again.
        let shape = |times: usize| PartitionShape::cores(&vec![core; times]);
        let mut fences = Fences::default();
        let used = fences.open(&engine, &shape(1)).unwrap();
        let first_idle = fences.open(&engine, &shape(2)).unwrap().id();
        for times in 3..=KEPT {
            fences.open(&engine, &shape(times)).unwrap();
        }
        assert!(engine.threads(first_idle).is_ok(), "there is room for all so far");
        let more = fences.open(&engine, &shape(KEPT + 1)).unwrap();
        assert!(
            engine.threads(first_idle).is_err(),
            "the oldest that is idle is gone"
        );
        assert!(engine.threads(used.id()).is_ok() && engine.threads(more.id()).is_ok());
        assert_eq!(fences.open(&engine, &shape(1)).unwrap().id(), used.id());
        assert_eq!(fences.known.len(), KEPT);
    }
}
