//! Files that wait in spill, as a source: so they are delivered in the same way as any other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use secrecy::ExposeSecret;

use super::source::{Content, Format, OpenPart, Opened, Page, Part, Source};
use super::{Fault, Interrupt};
use crate::checkpoint::{Cursor, FileProgress, Position};
use crate::codes::Code;
use crate::seams::{Clock, Deadline};
use crate::spill::{InSpill, SpilledFile, SpilledFiles};
use crate::table::Stream;

/// Files of one page. Each page's first lines are read before its files are.
const PAGE: u64 = 32;

/// Files whose first lines are read at the same time.
const AT_ONCE: usize = 8;

/// The files of one stream that wait, in the order in which they came.
pub(super) struct SpillSource {
    pub(super) files: SpilledFiles,
    pub(super) stream: Stream,
    /// Where they came from, which knows how they are read.
    pub(super) inner: Arc<dyn Source>,
    /// The number behind the last.
    pub(super) next: u64,
    pub(super) clock: Clock,
}

#[async_trait]
impl Source for SpillSource {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn owner(&self) -> BTreeMap<String, String> {
        self.inner.owner()
    }

    fn streams(&self) -> Vec<Stream> {
        vec![self.stream]
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        self.inner.format(stream)
    }

    /// A page ends before a key that it has already: that is another file.
    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        _: Deadline,
    ) -> Result<Page, Interrupt> {
        let first = at.and_then(Cursor::spilled).unwrap_or(0);
        let headers = (first..self.next.min(first + PAGE)).map(|number| async move {
            let file = match self.files.open(stream.name, number).await? {
                InSpill::Gone => None,
                InSpill::Damaged => Some(SpilledFile {
                    file: format!("{}{number:010}", self.files.location(stream.name)),
                    progress: FileProgress::default(),
                }),
                InSpill::File(file, _) => Some(file),
            };
            Ok::<_, Interrupt>((number, file))
        });
        let headers: Vec<(u64, Option<SpilledFile>)> =
            stream::iter(headers).buffered(AT_ONCE).try_collect().await?;
        let (mut parts, mut keys, mut gone, mut next) = (Vec::new(), HashSet::new(), 0, first);
        for (number, header) in headers {
            let Some(SpilledFile { file: key, progress }) = header else {
                (gone, next) = (gone + 1, number + 1);
                continue;
            };
            if !keys.insert(key.clone()) {
                break;
            }
            next = number + 1;
            let (size, content) = (progress.version.size, Content::At(number.to_string().into()));
            let begun = Some(progress).filter(|progress| progress.done != Position::Line(0));
            parts.push(Part { key, size, etag: None, content, begun });
        }
        if gone > 0 {
            tracing::error!(
                stream = stream.name,
                files = gone,
                r#where = self.files.location(stream.name),
                "files that were kept here are gone: their events are missing"
            );
        }
        Ok(Page {
            at: Cursor::of_spilled(first),
            parts,
            next: Some(Cursor::of_spilled(next)),
            caught_up: next >= self.next,
            backfill_from: None,
            gap: (gone > 0).then(|| (None, self.clock.now())),
        })
    }

    async fn open(&self, part: &Part, _: Deadline) -> Result<Opened, Interrupt> {
        let number = match &part.content {
            Content::At(number) => number.expose_secret().parse().ok(),
            Content::Here(_) => None,
        };
        let opened = match number {
            Some(number) => self.files.open(self.stream.name, number).await?,
            None => InSpill::Gone,
        };
        Ok(match opened {
            InSpill::Gone => Opened::Expired("it is gone".to_owned()),
            InSpill::Damaged => Opened::Refused(Fault::passing(
                Code::FileUnreadable,
                format!("{} does not begin as it was written", part.key),
                "put back what was there",
            )),
            InSpill::File(SpilledFile { progress, .. }, bytes) => {
                let etag = progress.version.etag;
                Opened::Part(OpenPart { etag, bytes, end_is_proof: true })
            }
        })
    }
}
