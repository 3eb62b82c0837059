//! What Mimecast has to give: per stream a list of pages, each with its batch files.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};

use bytes::Bytes;
use chrono::NaiveDate;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The pages of every stream, oldest first.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub(super) streams: BTreeMap<String, Vec<Page>>,
}

impl World {
    /// With `page` behind the last page of `stream`.
    #[must_use]
    pub fn page(mut self, stream: &str, page: Page) -> Self {
        self.streams.entry(stream.to_owned()).or_default().push(page);
        self
    }

    /// How many pages `stream` has.
    pub fn page_count(&self, stream: &str) -> usize {
        self.streams.get(stream).map_or(0, Vec::len)
    }

    /// The events of `stream` as lines, each file once, blank lines left out. Of a file that
    /// cannot be decompressed only what comes before the damage.
    pub fn lines(&self, stream: &str) -> Vec<Vec<u8>> {
        let mut seen = HashSet::new();
        let pages = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let files = pages.iter().flat_map(|page| &page.files);
        let mut lines = Vec::new();
        for file in files.filter(|file| seen.insert(&file.name)) {
            let mut text = Vec::new();
            // What was decompressed before an error is kept in `text`.
            if MultiGzDecoder::new(&file.bytes[..]).read_to_end(&mut text).is_err() {
                text.truncate(text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
            }
            let all = text.split(|&byte| byte == b'\n');
            lines.extend(all.filter(|line| !line.trim_ascii().is_empty()).map(<[u8]>::to_vec));
        }
        lines
    }
}

/// One listing reply.
#[derive(Debug, Clone)]
pub struct Page {
    /// The day its events are of; what `dateRangeStartsAt` is compared with.
    pub day: NaiveDate,
    /// Its files, in the order in which they are listed. A file may be here twice.
    pub files: Vec<BatchFile>,
    /// `isCaughtUp`; `None` leaves it out.
    pub caught_up: Option<bool>,
    /// What its `@nextPage` is.
    pub next: NextToken,
    /// Answered instead of all this, unchanged.
    pub verbatim: Option<Value>,
}

impl Page {
    /// A page without files, not caught up, whose token leads on.
    pub fn new(day: NaiveDate) -> Self {
        Self {
            day,
            files: Vec::new(),
            caught_up: Some(false),
            next: NextToken::Moves,
            verbatim: None,
        }
    }

    /// With one more file.
    #[must_use]
    pub fn file(mut self, file: BatchFile) -> Self {
        self.files.push(file);
        self
    }

    /// With this `isCaughtUp`.
    #[must_use]
    pub fn caught_up(mut self, caught_up: Option<bool>) -> Self {
        self.caught_up = caught_up;
        self
    }

    /// With this `@nextPage`.
    #[must_use]
    pub fn next(mut self, next: NextToken) -> Self {
        self.next = next;
        self
    }

    /// Answers `reply` instead of what its files would give.
    #[must_use]
    pub fn verbatim(mut self, reply: Value) -> Self {
        self.verbatim = Some(reply);
        self
    }
}

/// What a page's `@nextPage` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextToken {
    /// The token of the page behind it.
    Moves,
    /// The page's own token, so that the next listing gives the same page.
    Unmoved,
    /// There is none.
    Missing,
    /// An empty string.
    Empty,
}

/// One batch file: an object behind a signed URL.
#[derive(Debug, Clone)]
pub struct BatchFile {
    /// Its path under the stream, such as `2026-08-01/part-00001.json.gz`. With the stream it is
    /// the file's identity.
    pub name: String,
    /// What a download gives. Clones share it, so that a large world can be made of a few.
    pub bytes: Bytes,
    /// The listed `size`, in bytes; `None` leaves it out.
    pub size: Option<u64>,
    /// The listed `expiry`; `None` is an hour after the listing.
    pub expiry: Option<String>,
    /// The object's `ETag`, if downloads carry one.
    pub etag: Option<String>,
}

impl BatchFile {
    /// A gzip file of `lines`, each with its line end.
    pub fn of_lines<L: AsRef<[u8]>>(name: &str, lines: &[L]) -> Self {
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(line.as_ref());
            text.push(b'\n');
        }
        Self::raw(name, gzip(&text))
    }

    /// A file of these bytes, gzip or not.
    pub fn raw(name: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let digest = Sha256::digest(&bytes);
        let etag = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            name: name.to_owned(),
            size: Some(bytes.len() as u64),
            bytes,
            expiry: None,
            etag: Some(format!("\"{etag}\"")),
        }
    }

    /// With this listed `expiry`.
    #[must_use]
    pub fn expiry(mut self, expiry: &str) -> Self {
        self.expiry = Some(expiry.to_owned());
        self
    }

    /// With everything from byte `at` on damaged; the length stays.
    #[must_use]
    pub fn damaged(self, at: usize) -> Self {
        Self { bytes: damage(&self.bytes, at), ..self }
    }

    /// Without an `ETag`.
    #[must_use]
    pub fn without_etag(mut self) -> Self {
        self.etag = None;
        self
    }
}

/// `bytes` with everything from `at` on overwritten. Ones rather than flipped bits, because a gzip
/// reader may step over a flipped bit and only find out at the file's end.
pub(super) fn damage(bytes: &Bytes, at: usize) -> Bytes {
    let mut damaged = bytes.to_vec();
    damaged.iter_mut().skip(at).for_each(|byte| *byte = 0xff);
    damaged.into()
}

/// One gzip member. Writing to a `Vec` cannot fail; an empty one is for the impossible case.
pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(text).and_then(|()| encoder.finish()).unwrap_or_default()
}
