//! A class of clients that is to be served: what a fragment is before it gets a name.

use graft_model::{CutPoint, ModelId};
use graft_plan::{Fragment, Workload};

/// Hexadecimal digits of a model's identity in the id of a fragment.
const DIGITS: usize = 12;

/// A class of clients that is to be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The model.
    pub model: ModelId,
    /// Where its clients hand over.
    pub point: CutPoint,
    /// The least time that the server has, in milliseconds.
    pub budget_ms: f64,
    /// Requests per second.
    pub rate_rps: f64,
    /// Index of dispersion of the requests' counts.
    pub burstiness: f64,
    /// It is served whether or not anybody asks.
    pub standing: bool,
}

impl Wanted {
    /// The id of its fragment.
    pub fn id(&self) -> String {
        let model = self.model.to_string();
        let short = model.get(..DIGITS).unwrap_or(&model);
        if self.standing {
            format!("{short}/{}/standing", self.point)
        } else {
            format!("{short}/{}/{:.3}ms", self.point, self.budget_ms)
        }
    }

    /// As planners know it; the model's name there is its identity.
    pub fn fragment(&self) -> Fragment {
        Fragment {
            id: self.id(),
            model: self.model.to_string(),
            partition_point: self.point,
            budget_ms: self.budget_ms,
            rate_rps: self.rate_rps,
            burstiness: self.burstiness,
        }
    }

    /// What a fragment was made for. `None`: its model's name is not an identity.
    pub fn of_fragment(fragment: &Fragment) -> Option<Self> {
        Some(Wanted {
            model: fragment.model.parse().ok()?,
            point: fragment.partition_point,
            budget_ms: fragment.budget_ms,
            rate_rps: fragment.rate_rps,
            burstiness: fragment.burstiness,
            standing: false,
        })
    }
}

/// All of them, as planners know them.
pub(crate) fn workload(headroom: f64, wanted: &[Wanted]) -> Workload {
    Workload {
        version: 1,
        headroom,
        fragments: wanted.iter().map(Wanted::fragment).collect(),
    }
}
