//! A model that is served in several sizes.

use graft_model::Batch;

use crate::session::{Inference, Session, SessionError};

/// A model that is served in several sizes (lines of text of several widths, sentences of several lengths): a session for
/// each. A request goes to the smallest that takes it, and is filled up where the manifest says with what.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Ascending.
    sessions: Vec<Session>,
}

impl Sizes {
    /// Of a session for each size, as `CatalogEntry::open_sizes` gives them; at least one.
    pub fn new(mut sessions: Vec<Session>) -> Option<Self> {
        sessions.sort_by_key(|session| session.entry().info.inputs().elements());
        (!sessions.is_empty()).then_some(Sizes { sessions })
    }

    /// The sessions, the smallest size first.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// Runs the model on one request in the smallest size that takes it. Outputs are as large as that size's.
    pub async fn infer(&self, input: impl Into<Batch>) -> Result<Inference, SessionError> {
        let input: Batch = input.into();
        for session in &self.sessions {
            let manifest = &session.entry().manifest;
            let inputs = session.entry().info.inputs();
            let filled = input.padded_to(inputs, |name| manifest.pad(name));
            if let Some(filled) = filled.map_err(|e| SessionError::Wire(e.to_string()))? {
                return session.infer(filled).await;
            }
        }
        let sizes = self.sessions.iter().map(|s| s.entry().info.inputs().to_string());
        Err(SessionError::Input {
            got: input.to_string(),
            want: sizes.collect::<Vec<_>>().join(", or of "),
        })
    }
}
