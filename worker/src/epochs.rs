//! The plans that a worker has prepared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix::prelude::*;
use graft_plan::Epoch;

use crate::job::RoutePlan;
use crate::observed::PartitionCounts;
use crate::partition::{Drain, PartitionActor};

/// One prepared plan.
pub(crate) struct PreparedPlan {
    /// By place in the plan; `None`: nothing of it runs here.
    pub routes: Vec<Option<Arc<RoutePlan>>>,
    pub partitions: Vec<Addr<PartitionActor>>,
    /// By the plan's name of the partition: what it does.
    pub counts: Vec<(String, Arc<PartitionCounts>)>,
    /// Its requests that are under way.
    pub under_way: Arc<AtomicUsize>,
}

/// Prepared plans by epoch.
pub(crate) type Epochs = BTreeMap<Epoch, Arc<PreparedPlan>>;

impl PreparedPlan {
    /// Ends its partitions when they are idle, or after `patience`.
    pub fn drain(&self, patience: Duration) {
        for partition in &self.partitions {
            partition.do_send(Drain {
                patience,
                under_way: Arc::clone(&self.under_way),
            });
        }
    }
}
