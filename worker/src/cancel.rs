//! Takes a request out of the queues when nobody waits for it any more.

use std::sync::Arc;

use graft_worker_core::RequestId;

use crate::job::{Cancel, RoutePlan};

/// Armed while somebody waits; when it is dropped armed, the request leaves every queue of its route.
pub(crate) struct CancelOnDrop {
    id: RequestId,
    route: Option<Arc<RoutePlan>>,
}

impl CancelOnDrop {
    pub fn arm(id: RequestId, route: Arc<RoutePlan>) -> Self {
        CancelOnDrop {
            id,
            route: Some(route),
        }
    }

    /// The answer is here.
    pub fn disarm(mut self) {
        self.route = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        for hop in self.route.iter().flat_map(|r| &r.hops) {
            for instance in &hop.instances {
                instance.cancelling.do_send(Cancel(self.id));
            }
        }
    }
}
