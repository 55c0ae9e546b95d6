//! Why a transaction stops before its decision although nothing failed: who asked, or what nobody came for.

use crate::ledger::record::StoppedBy;

/// Why a transaction is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// `octroi tx abort`, of its author or of another who may.
    #[error("user {} stopped it with octroi tx abort (process {})", .0.uid, .0.pid)]
    Asked(StoppedBy),
    /// The command that it is prepared for was interrupted, or has ended.
    #[error("the command that asked for it was interrupted, or has gone")]
    ClientLeft,
    /// Its rename, or a sign of life of its client, did not come in time.
    #[error("it expired before its rename came")]
    Expired,
    /// A rename of the same names has come already, and there is but one.
    #[error("it was cancelled, or another rename of the same names has finished it")]
    Taken,
    /// The gate or the policy is not what it was prepared by.
    #[error("{0}")]
    Changed(&'static str),
    /// The daemon stops.
    #[error("the view is being unmounted")]
    Unmounting,
}

impl Stop {
    /// Who asked, where somebody did.
    pub fn asked_by(self) -> Option<StoppedBy> {
        match self {
            Self::Asked(by) => Some(by),
            Self::ClientLeft
            | Self::Expired
            | Self::Taken
            | Self::Changed(_)
            | Self::Unmounting => None,
        }
    }
}
