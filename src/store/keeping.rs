//! What comes in pieces and is written as one object: a whole batch file, or a line that is too long
//! to be held in memory.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Area, KeepError, StoreError};
use crate::seams::spawn;

/// An object that is being kept. It is there once [`Keeping::finish`] returns; otherwise nothing
/// is.
#[derive(Debug)]
pub struct Keeping {
    name: String,
    location: String,
    /// Packs a line.
    packing: Option<GzEncoder<Vec<u8>>>,
    /// Whether what was written so far ends in `\r`.
    ends_in_cr: bool,
    writing: AbortOnDropHandle<Result<(), KeepError>>,
    /// `None` is the end: one that is dropped without it is not the end, but a break.
    pieces: mpsc::Sender<Option<Bytes>>,
}

impl Area {
    /// Begins to write what comes in pieces.
    pub fn keep(&self, name: String) -> Keeping {
        self.begin(name, None)
    }

    /// The same, packed with gzip.
    pub fn keep_packed(&self, name: String) -> Keeping {
        self.begin(name, Some(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    fn begin(&self, name: String, packing: Option<GzEncoder<Vec<u8>>>) -> Keeping {
        let (pieces, mut arriving) = mpsc::channel(1);
        let broken = || Some(Err(io::Error::other("what was to be kept broke off")));
        let arriving = stream::poll_fn(move |context| {
            arriving
                .poll_recv(context)
                .map(|piece| piece.map_or_else(broken, |p: Option<Bytes>| p.map(Ok)))
        });
        let (area, object) = (self.clone(), name.clone());
        let writing = async move { area.write_stream(&object, arriving.boxed()).await };
        let writing = AbortOnDropHandle::new(spawn(writing));
        let location = self.store.location();
        Keeping { name, location, packing, ends_in_cr: false, writing, pieces }
    }
}

impl Keeping {
    /// Takes the next piece. False if it cannot be kept: [`Keeping::finish`] says why.
    pub async fn write(&mut self, piece: Bytes) -> bool {
        self.ends_in_cr = piece.last().map_or(self.ends_in_cr, |last| *last == b'\r');
        let piece = match &mut self.packing {
            None => piece,
            Some(packing) => {
                // Into memory, which cannot fail.
                drop(packing.write_all(&piece));
                std::mem::take(packing.get_mut()).into()
            }
        };
        self.pieces.send(Some(piece)).await.is_ok()
    }

    /// Waits until all of it is durable; returns its name.
    pub async fn finish(self) -> Result<String, KeepError> {
        let Self { name, location, packing, ends_in_cr, writing, pieces } = self;
        let rest = packing.and_then(|mut packing| {
            // A reader takes one off, as part of the line's end.
            let end: &[u8] = if ends_in_cr { b"\r" } else { b"" };
            packing.write_all(end).and_then(|()| packing.finish()).ok()
        });
        let rest = rest.map(Bytes::from);
        for piece in [rest, None] {
            drop(pieces.send(piece).await);
        }
        match writing.await {
            Ok(written) => written.map(|()| name),
            Err(error) => {
                let (action, reason) = (format!("keeping {name}"), error.to_string());
                Err(StoreError::Failed { location, action, reason }.into())
            }
        }
    }

    /// Ends it without a trace.
    pub async fn cancel(self) {
        let Self { writing, pieces, .. } = self;
        drop(pieces);
        drop(writing.await);
    }
}
