//! Where checkpoints and quarantine are kept.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::identity::{AzureIdentity, Purpose, identity};
use super::origin::is_loopback;
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, whole_number, wrong};

const NAME: &str = "CHECKPOINT_URL";
const DEFAULT_FOLDER: &str = "./mimecast-sentinel-state";
/// How the hosts of storage accounts end: those of each cloud, and of accounts with a DNS zone.
const BLOB_SUFFIXES: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.chinacloudapi.cn",
    ".blob.storage.azure.net",
];
const FIX: &str = "Set it to https://<account>.blob.core.windows.net/<container>, or to a folder.";

/// Where checkpoints and quarantine are kept. Shown without its SAS.
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
#[derive(Clone, Debug)]
pub enum StateLocation {
    /// A local folder.
    Folder(PathBuf),
    /// A container in Azure Blob Storage.
    Blob {
        /// The container's URL, without a query.
        container: Url,
        /// With what it is opened.
        access: BlobAccessSettings,
    },
}

/// With what a container is opened.
#[derive(Clone, Debug)]
pub enum BlobAccessSettings {
    /// The URL's query with the signature, without its `?`.
    Sas(SecretString),
    /// A role of this identity. Only over `https`.
    Identity(AzureIdentity),
}

impl fmt::Display for StateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Blob { container, .. } => container.fmt(f),
        }
    }
}

/// The URL as it was given.
enum Place {
    Folder(PathBuf),
    Container { url: Url, sas: Option<SecretString> },
}

pub(super) fn read(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<StateLocation> {
    let place = if reader.under_functions() {
        let fix = "Set it to the URL of a blob container, \
                   https://<account>.blob.core.windows.net/<container>: an instance's own disk \
                   is gone when the instance is.";
        reader.required(NAME, &raw.checkpoint_url, fix, place)?
    } else {
        reader.optional(NAME, &raw.checkpoint_url, DEFAULT_FOLDER, place)?
    };
    let (container, sas) = match place {
        Place::Folder(path) => return Some(StateLocation::Folder(path)),
        Place::Container { url, sas } => (url, sas),
    };
    let access = match sas {
        Some(_) if given(&raw.checkpoint_url) != reader.env(NAME).as_deref() => {
            let problem = "its SAS was given on the command line, which other processes can read";
            let fix = "Set CHECKPOINT_URL in the environment instead.";
            reader.fault(NAME, Wrong { problem: problem.to_owned(), fix: fix.to_owned() });
            return None;
        }
        Some(sas) => BlobAccessSettings::Sas(sas),
        None => BlobAccessSettings::Identity(identity(raw, Purpose::Beside, reader)?),
    };
    Some(StateLocation::Blob { container, access })
}

/// `QUARANTINE_MAX_BYTES` or `SPILL_MAX_BYTES`: at least 1 MB, which a few records always fit into.
pub(super) fn most_bytes(
    name: &'static str,
    value: &Option<String>,
    reader: &mut Reader<'_>,
) -> Option<u64> {
    let bytes = whole_number(1_000_000..=1_000_000_000_000_000, "number of bytes");
    reader.optional(name, value, "20000000000", bytes)
}

/// What a person should know about a valid location.
pub(super) fn warning(location: &StateLocation, reader: &Reader<'_>) -> Option<String> {
    let folder = matches!(location, StateLocation::Folder(_)) && reader.under_functions();
    folder.then(|| {
        format!(
            "{NAME} is the folder {location}: unless that is a mounted share, it is gone when the \
             instance is, and events are read again. Better use a blob container."
        )
    })
}

/// Never repeats the text, which may hold a signature.
fn place(text: &str) -> Result<Place, Wrong> {
    if !text.contains("://") {
        // What may hold a secret must not become a folder, whose name is shown.
        if text.contains('=') {
            return wrong(
                "it has an `=`, as a connection string or a signature has",
                format!("{FIX} A folder with an `=` in its path is written file:///…"),
            );
        }
        let slip = Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if slip || BLOB_SUFFIXES.iter().any(|suffix| text.contains(suffix)) {
            return wrong("it is a container's URL without its whole beginning", FIX);
        }
        return Ok(Place::Folder(PathBuf::from(text)));
    }
    let Ok(mut url) = Url::parse(text) else {
        return wrong("it is not a URL", FIX);
    };
    match url.scheme() {
        "https" | "http" => {}
        "file" => {
            return url.to_file_path().map(Place::Folder).or_else(|()| {
                wrong("it names no folder of this machine", "Write file:///path/to/the/folder.")
            });
        }
        _ => return wrong("it is neither https:// nor file:///", FIX),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong("it has a user name, a password or something after `#`", FIX);
    }
    let sas = url.query().filter(|query| !query.is_empty()).map(SecretString::from);
    let signed = url.query_pairs().any(|(name, value)| name == "sig" && !value.is_empty());
    if sas.is_some() && !signed {
        return wrong(
            "what follows its `?` is not a SAS, which has a `sig=`",
            "Copy the container's SAS URL again, whole, or leave out `?` and what follows.",
        );
    }
    url.set_query(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    host_and_container(&url, sas.is_some())?;
    Ok(Place::Container { url, sas })
}

/// Whether the URL is `https://<account>.blob.…/<container>`, or on loopback (Azurite)
/// `<account>/<container>`.
fn host_and_container(url: &Url, has_sas: bool) -> Result<(), Wrong> {
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    let container = if is_loopback(url) {
        if url.scheme() == "http" && !has_sas {
            return wrong(
                "it has no SAS, and over http:// nothing else is possible",
                "Add a SAS, or use https://.",
            );
        }
        if let [_account, container] = segments.as_slice() { Some(*container) } else { None }
    } else {
        if url.scheme() == "http" {
            return wrong("it begins with http://", FIX);
        }
        let host = url.domain().unwrap_or_default();
        if url.port().is_some() || !BLOB_SUFFIXES.iter().any(|suffix| host.ends_with(suffix)) {
            return wrong("its host is not that of a storage account's blobs", FIX);
        }
        if let [container] = segments.as_slice() { Some(*container) } else { None }
    };
    if container.is_some_and(is_container_name) {
        return Ok(());
    }
    wrong(
        "its path is not the name of one container",
        format!("{FIX} A container's name has 3 to 63 lower-case letters, digits and hyphens."),
    )
}

fn is_container_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (3..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
