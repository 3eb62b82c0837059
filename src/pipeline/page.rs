//! One page, read to its end: what happens when an address expires, a part is no longer listed, or
//! cannot be had.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, rest};
use super::fault::{Fault, Interrupt, internal};
use super::part::PartEnd;
use super::read::{FileRead, Filler};
use super::source::{Page, Part};
use super::stream::StreamPull;
use crate::checkpoint::{Cursor, FileProgress, FileVersion, HeldUp, Position};
use crate::codes::Code;
use crate::quarantine::Kept;
use crate::seams::spawn;
use crate::spill::SpilledFiles;
use crate::store::LeaseWatch;

/// Parts that are open at a time, the one that is read with them, so that small ones do not wait
/// for one another.
const OPEN: usize = 3;

/// How often in a row the same page is listed again because addresses were refused.
const RELISTINGS: u32 = 3;

/// How often the page is listed again to find a file that it no longer has.
const RELISTINGS_FOR_MISSING: u32 = 2;

/// The words for files without their bytes in quarantine: one that no listing has any more, and one that
/// could not be had for too long.
const FILE_GONE: &str = "file-gone";
const FILE_UNAVAILABLE: &str = "file-unavailable";

/// Reads one page of one stream into bodies.
pub(super) struct PageReader<'a> {
    pub(super) pull: &'a StreamPull,
    at: Cursor,
    pub(super) files: BTreeMap<String, FileRead>,
    /// Shared with the thread that is at work on what was read.
    pub(super) filler: Arc<Mutex<Filler>>,
    /// Where it sends bodies.
    bodies: mpsc::UnboundedSender<Body>,
    /// Whether an address of the last listing was good.
    pub(super) address_worked: bool,
    /// Listings in a row of whose parts none could be read, since their addresses were refused.
    pub(super) expired: u32,
    /// Parts that cannot be had in this run, and why.
    pub(super) held_up: Vec<HeldUpPart>,
    /// Where files are kept instead of being delivered.
    pub(super) spill: Option<Spilling>,
}

/// Where files are kept instead of being delivered.
pub(super) struct Spilling {
    pub(super) files: SpilledFiles,
    /// The number of the next one.
    pub(super) number: u64,
    /// Who has the stream's lease gives the numbers.
    pub(super) lease: LeaseWatch,
}

/// A part that cannot be had, though its host answers.
pub(super) struct HeldUpPart {
    pub(super) key: String,
    pub(super) version: FileVersion,
    pub(super) held_up: HeldUp,
    pub(super) fault: Fault,
}

impl<'a> PageReader<'a> {
    /// Goes on in the page at a cursor from this progress in its files.
    pub(super) fn new(
        pull: &'a StreamPull,
        at: Cursor,
        files: &BTreeMap<String, FileProgress>,
        bodies: mpsc::UnboundedSender<Body>,
        spill: Option<Spilling>,
    ) -> Self {
        let known = |(key, progress): (&String, &FileProgress)| {
            (key.clone(), FileRead { progress: progress.clone(), events: 0 })
        };
        let files = files.iter().map(known).collect();
        let mut filler = Filler::new(pull, bodies.clone());
        filler.only_checks = spill.is_some();
        let filler = Arc::new(Mutex::new(filler));
        let (address_worked, held_up) = (false, Vec::new());
        Self { pull, at, files, filler, bodies, address_worked, expired: 0, held_up, spill }
    }

    /// Reads all parts of `page`; returns the reply whose parts they were in the end.
    pub(super) async fn read(&mut self, mut page: Page) -> Result<Page, Interrupt> {
        let mut looked_for = 0;
        loop {
            self.note(&mut page);
            let missing = self.missing(&page);
            if !missing.is_empty() && looked_for < RELISTINGS_FOR_MISSING {
                looked_for += 1;
                page = self.list_again().await?;
                continue;
            }
            for key in missing {
                self.give_up(&key, FILE_GONE, "three listings of its page no longer have it");
            }
            let read = self.read_parts(&page).await;
            // Whatever ended it, what was read is delivered while there is time for it.
            if !matches!(read, Err(Interrupt::OutOfTime)) || !self.pull.run.stop.is_cancelled() {
                self.flush().await?;
            }
            let refused = read?;
            if refused.iter().all(|(key, _)| self.is_known(key)) || self.expired >= RELISTINGS {
                for (key, said) in refused {
                    self.hold(key.clone(), forbidden(&key, &said), said);
                }
                self.flush().await?;
                return Ok(page);
            }
            self.expired += 1;
            page = self.list_again().await?;
        }
    }

    /// What fills the bodies. It is never held over an `await`.
    pub(super) fn filler(&self) -> MutexGuard<'_, Filler> {
        Filler::lock(&self.filler)
    }

    /// Sends on what waits in the body in hand, as soon as there is room for it.
    pub(super) async fn flush(&self) -> Result<(), Interrupt> {
        let body = self.filler().builder.take().map_err(internal)?;
        match body {
            Some(body) => self.pull.run.pool.send(body, &self.bodies).await,
            None => Ok(()),
        }
    }

    /// Waits for something to read. A body that has waited long enough meanwhile is sent on.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut work = pin!(work);
        loop {
            let since = self.filler().builder.since();
            let due = since.map(|since| since + self.pull.run.policy.body_wait);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush().await?;
                }
            }
        }
    }

    /// Remembers what is listed, none of which may disappear unseen. A file that is listed under
    /// another address keeps the key that it is known by.
    fn note(&mut self, page: &mut Page) {
        let listed: BTreeSet<String> = page.parts.iter().map(|part| part.key.clone()).collect();
        for part in page.parts.iter_mut().filter(|part| !self.files.contains_key(&part.key)) {
            let known = self.files.iter().find(|(key, file)| {
                file.progress.version.size == part.size
                    && !listed.contains(*key)
                    && self.pull.connector.source.is_same(key, &part.key)
            });
            if let Some((known, _)) = known {
                part.key.clone_from(known);
            }
        }
        // The same key twice is one file, whatever their sizes: the first.
        let mut keys = BTreeSet::new();
        page.parts.retain(|part| keys.insert(part.key.clone()));
        for part in &page.parts {
            let begun = || {
                let version = FileVersion { size: part.size, etag: part.etag.clone() };
                let progress = FileProgress { version, ..FileProgress::default() };
                FileRead { progress, events: 0 }
            };
            let file = self.files.entry(part.key.clone()).or_insert_with(begun);
            // Another content, of which nothing is read, be it had or not.
            let FileProgress { done, version, .. } = &file.progress;
            let is_other = version.size != part.size
                || part.etag.as_ref().is_some_and(|etag| version.etag.as_ref() != Some(etag));
            if *done == Position::End && is_other {
                file.progress = begun().progress;
            }
        }
    }

    /// Files that are not read to their end, and which the listing no longer has.
    fn missing(&self, page: &Page) -> Vec<String> {
        if !self.pull.connector.source.keeps_parts() {
            return Vec::new();
        }
        let listed: BTreeSet<&String> = page.parts.iter().map(|part| &part.key).collect();
        let unread = self.files.iter().filter(|(_, file)| file.progress.done != Position::End);
        unread.map(|(key, _)| key.clone()).filter(|key| !listed.contains(key)).collect()
    }

    /// Whether a file was held up in the last run too: it is not refused for its address's age.
    fn is_known(&self, key: &str) -> bool {
        self.files.get(key).is_some_and(|file| file.progress.held_up.is_some())
    }

    async fn list_again(&mut self) -> Result<Page, Interrupt> {
        let stream = self.pull.stream.name;
        tracing::info!(stream, "listing the same page again for new addresses");
        self.address_worked = false;
        let page = self.pull.list(Some(self.at.clone())).await.map_err(internal)??;
        if page.at != self.at {
            let message = "the source dropped the page's token while the page was being read";
            let fix = "nothing to do: the next run starts again at the oldest day that it accepts";
            return Err(Fault::passing(Code::CursorDropped, message, fix).into());
        }
        Ok(page)
    }

    /// A part cannot be had: the others are read, and it is tried again in the next run; or passed, if
    /// that was so for too long. `said` is what its host answered.
    pub(super) fn hold(&mut self, key: String, fault: Fault, said: String) {
        let Some(FileRead { progress, .. }) = self.files.get_mut(&key) else { return };
        let now = self.pull.connector.clock.now();
        let held_up = HeldUp::again(progress.held_up.take(), now, said);
        if held_up.is_due(now, self.pull.run.policy.give_up) {
            let tried = format!("tried in {} runs since {}", held_up.runs, held_up.since);
            let detail = format!("{}; {tried}", held_up.said);
            return self.give_up(&key, FILE_UNAVAILABLE, &detail);
        }
        let version = progress.version.clone();
        self.held_up.push(HeldUpPart { key, version, held_up, fault });
    }

    /// Passes a file: it goes into quarantine without its bytes.
    fn give_up(&mut self, key: &str, reason: &'static str, why: &str) {
        let Some(FileRead { progress, events }) = self.files.get_mut(key) else { return };
        let builder = &mut Filler::lock(&self.filler).builder;
        builder.begin_file(key, &progress.version, progress.done);
        let position = builder.place(progress.done.lines() + 1);
        tracing::error!(
            stream = position.stream,
            file = key,
            line = position.line,
            reason,
            why,
            "a file is passed: it is missing from this line on"
        );
        builder.reject(rest(position, reason, why.to_owned(), Kept::Nothing));
        builder.end_file(None);
        // It may come back as another, whose events are counted from none.
        (progress.done, *events) = (Position::End, 0);
    }

    /// Reads what is not yet read of a page's parts, in order; returns those whose addresses were
    /// refused, each with its host's words.
    async fn read_parts(&mut self, page: &Page) -> Result<Vec<(String, String)>, Interrupt> {
        let is_unread = |part: &&Part| {
            let file = self.files.get(&part.key);
            let is_read = file.is_some_and(|file| file.progress.done == Position::End);
            let is_held_up = self.held_up.iter().any(|held_up| held_up.key == part.key);
            !is_read && !is_held_up
        };
        let parts: Vec<Part> = page.parts.iter().filter(is_unread).cloned().collect();
        let pull = self.pull;
        let opening = parts.into_iter().map(|part| {
            let pull = pull.clone();
            // A task of its own goes on while the parts before it are read.
            AbortOnDropHandle::new(spawn(async move {
                let open = pull.open(&part).await;
                (part, open)
            }))
        });
        let mut opened = stream::iter(opening).buffered(OPEN);
        let mut refused = Vec::new();
        while let Some(opened) = self.wait(opened.next()).await? {
            let (part, open) = opened.map_err(internal)?;
            match self.read_part(&part, open?).await? {
                PartEnd::Read => self.expired = 0,
                PartEnd::HeldUp(fault) => {
                    let said = fault.message.clone();
                    self.hold(part.key, fault, said);
                }
                PartEnd::Expired(said) => {
                    // If it is their age, the others' addresses have expired with it. Only where the
                    // page is listed again may they be left unread.
                    let of_age = self.address_worked && refused.is_empty();
                    let stops = of_age && !self.is_known(&part.key) && self.expired < RELISTINGS;
                    refused.push((part.key, said));
                    if stops {
                        break;
                    }
                }
            }
        }
        Ok(refused)
    }
}

fn forbidden(key: &str, said: &str) -> Fault {
    Fault::passing(
        Code::FileForbidden,
        format!("file {key} was refused at a new address ({said})"),
        "if it stays so, give the file's name to the support of the source",
    )
}
