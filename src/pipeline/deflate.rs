//! Gzip, written into one buffer after another with the same compressor.

use std::io::{self, Write};
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
pub(super) const COLLECTED: usize = 16 * 1024;

/// Deflates what is written into it, one body after the other. It has some 300 KB of its own, and is
/// used again: with a new one for each body, holes in the heap took 15 MiB.
#[derive(Debug)]
pub(super) struct Deflater {
    compress: Compress,
    out: Buffer<u8>,
    /// What has the memory of buffers.
    buffers: Arc<Buffer<u8>>,
}

impl Deflater {
    /// For `level` 0 (store) to 9 (smallest).
    pub(super) fn new(level: u32, buffers: &Arc<Buffer<u8>>) -> Self {
        let compress = Compress::new_gzip(Compression::new(level), WINDOW_BITS);
        Self { compress, out: Buffer::default(), buffers: Arc::clone(buffers) }
    }

    /// The body's gzip; what follows is another body.
    pub(super) fn finish(&mut self) -> io::Result<Bytes> {
        while self.step(&[], FlushCompress::Finish)? != Status::StreamEnd {}
        self.compress.reset();
        Ok(Bytes::from_owner(std::mem::take(&mut self.out)))
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

impl Write for Deflater {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.compress.total_in();
        let mut taken = 0;
        // Where the buffer was full, nothing may have been taken yet.
        while taken == 0 && !bytes.is_empty() {
            self.step(bytes, FlushCompress::None)?;
            taken = usize::try_from(self.compress.total_in() - before).unwrap_or(usize::MAX);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
