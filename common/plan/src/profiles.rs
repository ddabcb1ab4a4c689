//! What stages cost on each kind of device that there is.

use std::collections::{BTreeMap, HashSet};

use graft_model::CutPoint;

use crate::profile::Profile;

/// Profiles of one or several kinds of devices, which agree on the models that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiles(Vec<Profile>);

/// Reason why profiles don't go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfilesError {
    /// There is none.
    #[error("no profile is given; expected one for each kind of device")]
    None,
    /// Two are of the same kind of device.
    #[error("two profiles are of kind {0:?}; expected one for each kind of device")]
    SameKind(String),
    /// Two disagree on a model.
    #[error(
        "model {model} has {} segments in the profile of {:?} and {} in that of {:?}; expected the same cut points in both",
        counts.0, kinds.0, counts.1, kinds.1
    )]
    Segments {
        /// The model.
        model: String,
        /// The two profiles' kinds.
        kinds: (String, String),
        /// Its number of segments in each of the two.
        counts: (usize, usize),
    },
}

impl Profiles {
    /// Of at least one profile, each of another kind of device.
    pub fn new(profiles: Vec<Profile>) -> Result<Self, ProfilesError> {
        if profiles.is_empty() {
            return Err(ProfilesError::None);
        }
        let mut kinds = HashSet::new();
        let mut known: BTreeMap<&str, (&Profile, usize)> = BTreeMap::new();
        for profile in &profiles {
            if !kinds.insert(profile.device_kind.as_str()) {
                return Err(ProfilesError::SameKind(profile.device_kind.clone()));
            }
            for (name, model) in &profile.models {
                let count = model.segments.len();
                let (first, expected) = *known.entry(name).or_insert((profile, count));
                if count != expected {
                    return Err(ProfilesError::Segments {
                        model: name.clone(),
                        kinds: (first.device_kind.clone(), profile.device_kind.clone()),
                        counts: (expected, count),
                    });
                }
            }
        }
        Ok(Profiles(profiles))
    }

    /// One for each kind of device, at least one, in the order in which they were given.
    pub fn kinds(&self) -> &[Profile] {
        &self.0
    }

    /// The profile of one kind of device.
    pub fn of_kind(&self, kind: &str) -> Option<&Profile> {
        self.0.iter().find(|p| p.device_kind == kind)
    }

    /// Time of a hop, in milliseconds: the longest of all kinds'.
    pub fn hop_ms(&self) -> f64 {
        self.0.iter().map(|p| p.hop_ms).fold(0.0, f64::max)
    }

    /// A model's last cut point, which is its output. `None`: no profile knows the model.
    pub fn last_cut(&self, model: &str) -> Option<CutPoint> {
        let model = self.0.iter().find_map(|p| p.models.get(model))?;
        Some(CutPoint(u16::try_from(model.segments.len()).ok()?))
    }

    /// Names of the models that any kind of device runs.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let mut seen = HashSet::new();
        let all = self.0.iter().flat_map(|p| p.models.keys());
        all.map(String::as_str).filter(move |m| seen.insert(*m))
    }

    /// Each profile changed, but for its kind and its models' segments.
    pub fn map(&self, change: impl Fn(&Profile) -> Profile) -> Self {
        Profiles(self.0.iter().map(change).collect())
    }
}

impl From<Profile> for Profiles {
    fn from(profile: Profile) -> Self {
        Profiles(vec![profile])
    }
}
