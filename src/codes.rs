//! The codes that the program reports and logs. Users search for them and alerts match them, so a
//! word never changes.

use std::fmt;

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($variant:ident = $word:literal,)+) => {
        /// What went wrong, as one stable word. `docs/TROUBLESHOOTING.md` has a section for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = concat!("`", $word, "`")] $variant,)+
        }

        impl Code {
            /// Every code, in the order of `docs/TROUBLESHOOTING.md`.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

codes! {
    Settings = "settings",
    SecretUnreadable = "secret-unreadable",

    MimecastCredentials = "mimecast-credentials",
    MimecastUnreachable = "mimecast-unreachable",
    MimecastUnauthorized = "mimecast-unauthorized",
    MimecastForbidden = "mimecast-forbidden",
    MimecastRedirect = "mimecast-redirect",
    MimecastRefused = "mimecast-refused",
    ListingRefused = "listing-refused",
    ListingUnreadable = "listing-unreadable",
    ListingEntryOdd = "listing-entry-odd",
    ListingBadRequest = "listing-bad-request",
    ListingCircle = "listing-circle",
    CursorDropped = "cursor-dropped",

    GraphUnreachable = "graph-unreachable",
    GraphUnauthorized = "graph-unauthorized",
    GraphConsent = "graph-consent",
    GraphLicence = "graph-licence",
    GraphRefused = "graph-refused",
    GraphLink = "graph-link",

    FileForbidden = "file-forbidden",
    FileUnreachable = "file-unreachable",
    FileUnreadable = "file-unreadable",
    FileAddressRefused = "file-address-refused",

    AzureCredentials = "azure-credentials",
    AzureTokenUnavailable = "azure-token-unavailable",
    IngestionForbidden = "ingestion-forbidden",
    IngestionNotFound = "ingestion-not-found",
    IngestionUnauthorized = "ingestion-unauthorized",
    IngestionSettings = "ingestion-settings",
    IngestionUnreachable = "ingestion-unreachable",
    EveryRowRefused = "every-row-refused",
    AnotherDestination = "another-destination",

    StoreRefused = "store-refused",
    StoreFailed = "store-failed",
    QuarantineFull = "quarantine-full",
    SpillFull = "spill-full",
    LeaseLost = "lease-lost",
    Busy = "busy",
    CheckpointOfAnother = "checkpoint-of-another",
    CheckpointRefused = "checkpoint-refused",

    FilesWaiting = "files-waiting",
    RunKilled = "run-killed",
    NoRun = "no-run",
    NoProgress = "no-progress",
    ConservationBreach = "conservation-breach",
    Internal = "internal",
    Stdout = "stdout",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
