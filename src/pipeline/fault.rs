//! Why a stream ended before its work was done.

use serde::Serialize;

use crate::codes::Code;
use crate::store::{KeepError, Lease, StoreError};

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

    /// There is no access token of Microsoft's. `settings` says whether it stays so until a person acts.
    pub fn no_token(settings: bool, message: String, fix: String) -> Self {
        let code = if settings { Code::AzureCredentials } else { Code::AzureTokenUnavailable };
        Self { code, message, fix, settings }
    }

    /// The same fault as it would be said of any stream.
    fn of_any(&self, stream: &str) -> Self {
        let [message, fix] =
            [&self.message, &self.fix].map(|text| text.replace(stream, "<stream>"));
        Self { message, fix, ..self.clone() }
    }

    /// Logs that it kept these streams, one at least, from their work.
    fn log(&self, streams: &[&str]) {
        let (stream, all) = match streams {
            [stream] => (Some(*stream), None),
            streams => (None, Some(streams.join(", "))),
        };
        let (streams, code) = (all.as_deref(), self.code.as_str());
        let Self { message, fix, .. } = self;
        // No error: the Functions host at times has two handlers for a while.
        if self.code == Code::Busy {
            tracing::warn!(stream, streams, code, fix, "{message}");
        } else {
            tracing::error!(stream, streams, code, fix, "{message}");
        }
    }
}

/// Logs what kept streams of a run from their work: one line for what is the same but for the stream's
/// name, as a token that none of them gets.
pub(super) fn log(faults: &[(&str, Fault)]) {
    let mut shared: Vec<(Fault, Vec<&str>)> = Vec::new();
    for (stream, fault) in faults {
        let is_same = |(other, streams): &&mut (Fault, Vec<&str>)| {
            other.of_any(streams[0]) == fault.of_any(stream)
        };
        match shared.iter_mut().find(is_same) {
            Some((_, streams)) => streams.push(stream),
            None => shared.push((fault.clone(), vec![stream])),
        }
    }
    for (fault, mut streams) in shared {
        let fault = if streams.len() > 1 { fault.of_any(streams[0]) } else { fault };
        streams.sort_unstable();
        fault.log(&streams);
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

/// Another has the stream's lease.
pub(super) fn busy() -> Fault {
    Fault::passing(
        Code::Busy,
        "another connector holds the lease on its checkpoint",
        "run one connector per checkpoint; nothing is lost",
    )
}

pub(super) fn lease_lost() -> Fault {
    Fault::passing(
        Code::LeaseLost,
        "the lease on the checkpoint was lost",
        "another connector uses the same checkpoint: run one connector per checkpoint; nothing is \
         lost, but rows that were sent and not yet recorded may come again",
    )
}

impl Interrupt {
    /// The same, but for a lease that was lost since the place of the checkpoint is gone: no other
    /// connector is to blame then.
    pub(super) fn blame(self, lease: &dyn Lease) -> Self {
        match (self, lease.gone()) {
            (Self::Fault(fault) | Self::Destination(fault), Some(place))
                if fault.code == Code::LeaseLost =>
            {
                state_removed(&place).into()
            }
            (other, _) => other,
        }
    }
}

fn state_removed(place: &str) -> Fault {
    Fault::passing(
        Code::StoreFailed,
        format!("{place} is gone, or what was in it: it was removed while the run was using it"),
        "find out what removed it, and put it back if there is a copy; without its checkpoint a stream \
         begins again, and what the source still keeps comes again",
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
