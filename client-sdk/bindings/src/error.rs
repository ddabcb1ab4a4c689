//! What can go wrong. What has to do with routers alone is no error: then all layers run on the device, and the answer says why.

use graft_client::{ClientError, SessionError, picture::PictureError};

/// Something that can't be had, with what happened and what to do in words.
#[derive(Debug, Clone, PartialEq, thiserror::Error, uniffi::Error)]
#[uniffi(flat_error)]
pub enum GraftError {
    /// The client can't be made of these options.
    #[error("{0}")]
    Options(String),
    /// The model can't be read.
    #[error("{0}")]
    Model(String),
    /// The device can't run it.
    #[error("{0}")]
    Device(String),
    /// The input does not fit the model.
    #[error("{0}")]
    Input(String),
    /// Something failed that should not.
    #[error("{0}")]
    Internal(String),
}

impl From<ClientError> for GraftError {
    fn from(error: ClientError) -> Self {
        let what = error.to_string();
        match error {
            ClientError::NoAuthority | ClientError::Endpoint(_) => GraftError::Options(what),
            ClientError::Model(_) => GraftError::Model(what),
            ClientError::Device(_) => GraftError::Device(what),
            ClientError::Session(error) => error.into(),
            ClientError::BrokenOff(_) => GraftError::Internal(what),
        }
    }
}

impl From<SessionError> for GraftError {
    fn from(error: SessionError) -> Self {
        let what = error.to_string();
        match error {
            SessionError::Input { .. } => GraftError::Input(what),
            SessionError::NoSuchPoint { .. } | SessionError::NotAllowed { .. } => GraftError::Options(what),
            SessionError::Device(_) => GraftError::Device(what),
            SessionError::Task(_) | SessionError::Wire(_) => GraftError::Internal(what),
        }
    }
}

impl From<PictureError> for GraftError {
    fn from(error: PictureError) -> Self {
        GraftError::Input(error.to_string())
    }
}
