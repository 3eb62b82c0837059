//! What an error of Blob Storage means: its cause, what a person can do, and its words.

use azure_core::Error;
use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use azure_storage_blob::StorageError;
use azure_storage_blob::models::StorageErrorCode;

use crate::http::said;

/// The error code that Azure answered with.
pub(super) fn code(error: &Error) -> Option<&str> {
    match error.kind() {
        ErrorKind::HttpResponse { error_code, .. } => error_code.as_deref(),
        _ => None,
    }
}

/// Whether Azure answered with this error code.
pub(super) fn has_code(error: &Error, expected: StorageErrorCode) -> bool {
    code(error) == Some(expected.as_ref())
}

/// Whether another writer has the lease or has changed the blob: 412, or a conflict with a code
/// about the lease. Other conflicts (a policy, another type of blob) have other causes.
pub(super) fn is_unmet_condition(error: &Error) -> bool {
    error.http_status() == Some(StatusCode::PreconditionFailed)
        || code(error).is_some_and(|code| code.starts_with("Lease"))
}

/// An error answer in Azure's own words.
pub(super) fn said_by_storage(status: StatusCode, error: Error) -> String {
    let code = code(&error).unwrap_or_default().to_owned();
    let Ok(error) = StorageError::try_from(error) else { return format!("HTTP {status} {code}") };
    let code = error.error_code.map(|code| code.to_string()).unwrap_or_default();
    let words = said(&error.message.unwrap_or_default());
    // Of the details, only this one is sure not to repeat a signature.
    let detail = error.authentication_error_detail.unwrap_or_default();
    let detail = Some(detail).filter(|detail| detail.contains("time frame")).unwrap_or_default();
    said(&format!("HTTP {status} {code}: {words} {detail}"))
}

/// What to do about an answer that stays the same until a person acts.
pub(super) fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "ContainerNotFound" => "create the container, or correct CHECKPOINT_URL",
        "BlobImmutableDueToPolicy" => {
            "checkpoints are written over and over: take the immutability policy or the legal hold \
             from the container, or give another one in CHECKPOINT_URL"
        }
        "InvalidBlobType" | "ResourceTypeMismatch" => {
            "what has this name is of another kind than what this program writes: remove it, or \
             give another container in CHECKPOINT_URL"
        }
        "BlobArchived" | "BlobBeingRehydrated" => {
            "bring the blob back to the hot tier, and leave this container out of the rule that \
             archives"
        }
        "SnapshotsPresent" => "remove the blob's snapshots",
        _ => return None,
    })
}
