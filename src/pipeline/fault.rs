//! Why a stream ended before its work was done.

use serde::Serialize;

use crate::codes::Code;
use crate::store::{KeepError, StoreError};

/// What ends a stream's run early.
#[derive(Clone, Debug)]
pub enum Interrupt {
    /// The run's time is up, or waiting would take longer than what is left of it.
    OutOfTime,
    /// Something failed.
    Fault(Box<Fault>),
    /// The sink failed: other rows would fare no better.
    Destination(Box<Fault>),
}

/// A failure, for the person who must fix it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}; {fix}")]
pub struct Fault {
    /// One stable word for it.
    pub code: Code,
    /// What happened, to which thing.
    pub message: String,
    /// What to do next.
    pub fix: String,
    /// Whether a setting or a right must change before another run can do better.
    #[serde(skip)]
    pub settings: bool,
}

impl Fault {
    /// Something that may be better at the next run.
    pub fn passing(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, message: message.into(), fix: fix.into(), settings: false }
    }

    /// Something that a person must fix.
    pub fn settings(code: Code, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, message: message.into(), fix: fix.into(), settings: true }
    }

    /// Logs that a stream failed so.
    pub(super) fn log(&self, stream: &str) {
        let Self { code, message, fix, .. } = self;
        tracing::error!(stream, code = code.as_str(), fix, "{message}");
    }
}

impl From<Fault> for Interrupt {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl From<StoreError> for Interrupt {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::LeaseLost { .. } => Fault { message, ..lease_lost() },
            StoreError::Refused { .. } => Fault::settings(
                Code::StoreRefused,
                message,
                "check CHECKPOINT_URL, that the place exists, and that this identity may write \
                 to it",
            ),
            StoreError::Failed { .. } => Fault::passing(
                Code::StoreFailed,
                message,
                "check that the place of CHECKPOINT_URL is reachable and has room; nothing is \
                 lost, the next run goes on from the last checkpoint",
            ),
        }
        .into()
    }
}

impl From<KeepError> for Interrupt {
    fn from(error: KeepError) -> Self {
        let message = error.to_string();
        match error {
            KeepError::Store(error) => error.into(),
            KeepError::Full { area: "spill", .. } => Fault::settings(
                Code::SpillFull,
                message,
                "let the destination work again, then what is kept is delivered; or raise \
                 SPILL_MAX_BYTES; the checkpoint stays before what is not kept, which the source may \
                 forget in days",
            )
            .into(),
            KeepError::Full { .. } => Fault::settings(
                Code::QuarantineFull,
                message,
                "look at it with `mimecast-sentinel quarantine list`, send again what can be \
                 delivered by now with `mimecast-sentinel quarantine replay`, delete what nobody \
                 needs, or raise QUARANTINE_MAX_BYTES; nothing is lost, the checkpoint stays \
                 before what is not kept",
            )
            .into(),
        }
    }
}

pub(super) fn lease_lost() -> Fault {
    Fault::passing(
        Code::LeaseLost,
        "the lease on the checkpoint was lost",
        "another connector uses the same checkpoint: run one connector per checkpoint; nothing is \
         lost, but rows that were sent and not yet recorded may come again",
    )
}

/// What cannot happen: deflating into memory failed, or a thread of ours panicked.
pub(super) fn internal(error: impl std::fmt::Display) -> Fault {
    Fault::passing(
        Code::Internal,
        format!("an internal step failed: {error}"),
        "this is a bug; please report it with this log line",
    )
}
