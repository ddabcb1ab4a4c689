//! Names of models, and the identities by which a running site calls them.

use graft_certify::Generator;
use graft_model::ModelId;
use graft_plan::{Plan, Profile, Profiles};

/// A model's identity: the name itself, if it is one; else a number made of it.
pub(crate) fn identity(name: &str) -> ModelId {
    name.parse().unwrap_or_else(|_| {
        let mut bits = Generator::new(0, name);
        let mut bytes = [0; 32];
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&bits.bits().to_le_bytes());
        }
        ModelId(bytes)
    })
}

/// The profiles with models called by their identities, as workers call them.
pub(crate) fn by_identity(profiles: &Profiles) -> Profiles {
    profiles.map(|profile| {
        let models = profile.models.iter();
        Profile {
            models: models
                .map(|(name, model)| (identity(name).to_string(), model.clone()))
                .collect(),
            ..profile.clone()
        }
    })
}

/// The plan with models called by their identities.
pub(crate) fn plan_by_identity(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for stage in &mut plan.stages {
        stage.model = identity(&stage.model).to_string();
    }
    plan
}
