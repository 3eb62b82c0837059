//! Gzip, written into one buffer after another with the same compressor.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::pool::Buffer;

/// The window of gzip: 32 KiB, the most there is.
const WINDOW_BITS: u8 = 15;

/// What is made free in the buffer when it is full.
const ROOM: usize = 64 * 1024;

/// Bytes that are collected before they are deflated: a row at a time costs 7 % more
/// (`cargo bench --bench stages`).
const COLLECTED: usize = 16 * 1024;

/// Deflates one body at a time. It has some 300 KB of its own, and is used again: with a new one for
/// each body, holes in the heap took 15 MiB.
#[derive(Debug)]
pub(super) struct Deflater {
    compress: Compress,
    /// Bytes of the body that are not yet deflated.
    collected: Vec<u8>,
    out: Buffer<u8>,
    /// What has the memory of buffers.
    buffers: Arc<Buffer<u8>>,
}

impl Deflater {
    /// For `level` 0 (store) to 9 (smallest).
    pub(super) fn new(level: u32, buffers: &Arc<Buffer<u8>>) -> Self {
        Self {
            compress: Compress::new_gzip(Compression::new(level), WINDOW_BITS),
            collected: Vec::with_capacity(COLLECTED),
            out: Buffer::default(),
            buffers: Arc::clone(buffers),
        }
    }

    /// Takes the next bytes of the body.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.collected.len() + bytes.len() > COLLECTED {
            self.deflate_collected()?;
        }
        if bytes.len() > COLLECTED {
            return self.deflate(bytes);
        }
        self.collected.extend_from_slice(bytes);
        Ok(())
    }

    fn deflate_collected(&mut self) -> io::Result<()> {
        let mut collected = std::mem::take(&mut self.collected);
        self.deflate(&collected)?;
        collected.clear();
        self.collected = collected;
        Ok(())
    }

    fn deflate(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let before = self.compress.total_in();
            self.step(bytes, FlushCompress::None)?;
            let taken = self.compress.total_in() - before;
            bytes = bytes.get(usize::try_from(taken).unwrap_or(usize::MAX)..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body's gzip; what follows is another body.
    pub(super) fn finish(&mut self) -> io::Result<Bytes> {
        self.deflate_collected()?;
        while self.step(&[], FlushCompress::Finish)? != Status::StreamEnd {}
        self.compress.reset();
        let full = std::mem::take(&mut self.out);
        Ok(Bytes::from_owner(full))
    }

    fn step(&mut self, bytes: &[u8], flush: FlushCompress) -> io::Result<Status> {
        if self.out.items.capacity() == 0 {
            self.out = self.buffers.take();
        }
        if self.out.items.len() == self.out.items.capacity() {
            self.out.items.reserve(ROOM);
        }
        Ok(self.compress.compress_vec(bytes, &mut self.out.items, flush)?)
    }
}
