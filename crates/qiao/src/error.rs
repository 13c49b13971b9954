//! The one error type of this crate.

use qiao_engine::EngineError;

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong: every error says what was asked, what was found, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint, a prompt or a parameter.
    #[error(transparent)]
    Model(EngineError),
    /// A model that can't be quantised as asked, or an output that can't be written.
    #[error("cannot quantise: {found}: {mend}")]
    Quantize {
        /// What stands in the way.
        found: String,
        /// How to mend it.
        mend: String,
    },
    /// A device, or the contract with it.
    #[error(transparent)]
    Device(#[from] qiao_core::Error),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Error {
        match error {
            EngineError::Device(device) => Error::Device(device),
            other => Error::Model(other),
        }
    }
}
