//! What clients asked of the simulator, and the rows that it accepted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Endpoint, Fault, Keep};

/// What was asked of a simulator. Requests that met a fault are counted too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// Requests for a Mimecast access token.
    pub mimecast_tokens: u64,
    /// Listings, by stream.
    pub listings: BTreeMap<String, u64>,
    /// Downloads, by `<stream>/<name>`.
    pub downloads: BTreeMap<String, u64>,
    /// Requests for an Azure access token, by resource.
    pub azure_tokens: BTreeMap<String, u64>,
    /// Requests for the key vault's secret.
    pub secrets: u64,
    /// Requests to Microsoft Graph, by what was asked for.
    pub graph: BTreeMap<String, u64>,
    /// Bodies posted.
    pub posts: u64,
    /// Bodies accepted.
    pub accepted_posts: u64,
    /// The largest body that was accepted, in bytes before compression.
    pub largest_body: usize,
    /// The bytes of all that were accepted, before compression, by the rule's stream.
    pub row_bytes: BTreeMap<String, u64>,
    /// Bodies accepted whose answer never arrived.
    pub lost_replies: u64,
    /// Rows of those.
    pub lost_rows: u64,
}

impl Calls {
    /// Listings of all streams.
    pub fn all_listings(&self) -> u64 {
        self.listings.values().sum()
    }

    /// Downloads of all files.
    pub fn all_downloads(&self) -> u64 {
        self.downloads.values().sum()
    }

    pub(super) fn count(&mut self, endpoint: Endpoint, name: &str) {
        let counter = match endpoint {
            Endpoint::MimecastToken => &mut self.mimecast_tokens,
            Endpoint::Post => &mut self.posts,
            Endpoint::Secret => &mut self.secrets,
            Endpoint::Graph => self.graph.entry(name.to_owned()).or_default(),
            Endpoint::Listing => self.listings.entry(name.to_owned()).or_default(),
            Endpoint::File => self.downloads.entry(name.to_owned()).or_default(),
            Endpoint::AzureToken => self.azure_tokens.entry(name.to_owned()).or_default(),
        };
        *counter += 1;
    }
}

/// A fault that a request met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The kind of request.
    pub endpoint: Endpoint,
    /// Which one: a listing's query, a file's `<stream>/<name>`, a token's resource, a body's
    /// digest.
    pub identity: String,
    /// What happened.
    pub fault: Fault,
}

/// The accepted rows.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) count: u64,
    /// Each with the stream that it was posted to.
    pub(super) rows: Vec<(&'static str, Value)>,
    /// Where the files of the tables are,
    folder: Option<PathBuf>,
    /// those that are open, by the stream,
    files: BTreeMap<&'static str, BufWriter<File>>,
    /// and why one took no more, if it did not.
    pub(super) file_error: Option<String>,
}

impl Landed {
    pub(super) fn new(keep: &Keep) -> Self {
        let folder = match keep {
            Keep::Folder(path) => Some(path.clone()),
            Keep::Memory | Keep::Count => None,
        };
        Self { count: 0, rows: Vec::new(), folder, files: BTreeMap::new(), file_error: None }
    }

    /// Takes the `count` rows of one body to a stream; `rows` is empty where they are only counted.
    pub(super) fn take(
        &mut self,
        stream: &'static str,
        count: u64,
        rows: Vec<Value>,
    ) -> io::Result<()> {
        match self.folder.clone() {
            None => self.rows.extend(rows.into_iter().map(|row| (stream, row))),
            Some(folder) => self
                .append(&folder, stream, &rows)
                .inspect_err(|error| self.file_error = Some(error.to_string()))?,
        }
        self.count += count;
        Ok(())
    }

    fn append(&mut self, folder: &Path, stream: &'static str, rows: &[Value]) -> io::Result<()> {
        let file = match self.files.entry(stream) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                let path =
                    folder.join(format!("{}_CL.ndjson", stream.trim_start_matches("Custom-")));
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                place.insert(BufWriter::new(file))
            }
        };
        for row in rows {
            serde_json::to_writer(&mut *file, row)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}
