//! The bytes of a batch file, unpacked: gzip, as it should be; plain lines, where a gateway
//! unpacked it on the way; gzip within gzip, where one packed it again. The bytes say which, not a
//! header.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;

use crate::pipeline::source::ReadError;

/// How gzip begins. No line of a batch file does.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How much of a compressed file is taken at a time: about what gives a full buffer. Of a damaged
/// file, the lines of the last block are not delivered.
const BLOCK: usize = 16 * 1024;

/// Unpacks a file from the bytes that are pushed. Where it needs more of them it fails with
/// [`ErrorKind::WouldBlock`], and goes on from there when it is asked again.
pub(super) struct Unpacker {
    layers: Layers,
    /// How the first layer's content begins, until that is given.
    head: Vec<u8>,
    /// Unpacked bytes so far.
    unpacked: u64,
}

/// How often the file is packed.
enum Layers {
    /// Nothing of it was read yet.
    Unknown(Input),
    None(Input),
    One(Box<Members<Input>>),
    Two(Box<Members<Repacked>>),
    /// A value is on its way from one of the others to the next.
    Moving,
}

/// What was unpacked once, its beginning ahead of the rest.
type Repacked = Chain<Cursor<Vec<u8>>, BufReader<Box<Members<Input>>>>;

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { layers: Layers::Unknown(Input::default()), head: Vec::new(), unpacked: 0 }
    }

    /// Takes the next bytes; whether they are enough to go on with.
    pub(super) fn push(&mut self, bytes: Bytes) -> bool {
        self.input().is_some_and(|input| input.push(bytes))
    }

    /// No more bytes come. With `all`, it is sure that these were all.
    pub(super) fn end(&mut self, all: bool) {
        if let Some(input) = self.input() {
            input.end = Some(all);
        }
    }

    /// Unpacked bytes so far.
    pub(super) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Whether the file came as gzip; nothing is known of it before its first byte.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.layers, Layers::One(_) | Layers::Two(_))
    }

    /// Whether more may have been meant to come, though all that came was read.
    pub(super) fn may_be_cut(&mut self) -> bool {
        !self.is_packed() && self.may_be_unfinished()
    }

    /// Whether nothing says that the bytes ended where the file does.
    fn may_be_unfinished(&mut self) -> bool {
        self.input().is_some_and(|input| input.end == Some(false))
    }

    /// What an error of this reader means for the file, if it is one.
    pub(super) fn explain(&mut self, error: &io::Error) -> ReadError {
        if error.kind() == ErrorKind::UnexpectedEof && self.may_be_unfinished() {
            let reason = "the connection was closed, and nothing says that this was the end";
            return ReadError::Broken(io::Error::other(reason));
        }
        ReadError::Damaged { offset: self.unpacked, reason: error.to_string() }
    }

    fn input(&mut self) -> Option<&mut Input> {
        match &mut self.layers {
            Layers::Unknown(input) | Layers::None(input) => Some(input),
            Layers::One(members) => members.source(),
            Layers::Two(members) => members.source()?.get_mut().1.get_mut().source(),
            Layers::Moving => None,
        }
    }

    /// Looks how the file begins. A file of zero bytes is an empty file, not gzip without its
    /// header.
    fn begin(&mut self) -> io::Result<()> {
        let Layers::Unknown(input) = &mut self.layers else { return Ok(()) };
        if input.fill_buf()?.is_empty() {
            return Ok(());
        }
        self.layers = match std::mem::replace(&mut self.layers, Layers::Moving) {
            Layers::Unknown(input) if input.block.starts_with(&GZIP) => {
                Layers::One(Box::new(Members::new(input)))
            }
            Layers::Unknown(input) => Layers::None(input),
            known => known,
        };
        Ok(())
    }

    /// Unpacks what is still packed.
    fn unpack_again(&mut self) {
        self.layers = match std::mem::replace(&mut self.layers, Layers::Moving) {
            Layers::One(members) => {
                let head = Cursor::new(std::mem::take(&mut self.head));
                let rest = BufReader::with_capacity(BLOCK, members);
                Layers::Two(Box::new(Members::new(Read::chain(head, rest))))
            }
            known => known,
        };
    }
}

impl Read for Unpacker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        let read = match &mut self.layers {
            Layers::Unknown(_) | Layers::Moving => 0,
            Layers::None(input) => input.read(buffer)?,
            Layers::One(members) => {
                // Until it is known how it begins.
                while self.unpacked == 0 && self.head.len() < GZIP.len() {
                    let mut byte = [0];
                    if members.read(&mut byte)? == 0 {
                        break;
                    }
                    self.head.extend(byte);
                }
                if self.unpacked == 0 && self.head == GZIP {
                    self.unpack_again();
                    return self.read(buffer);
                }
                let head = self.head.len().min(buffer.len());
                match head {
                    0 => members.read(buffer)?,
                    _ => self.head.drain(..head).as_slice().read(buffer)?,
                }
            }
            Layers::Two(members) => members.read(buffer)?,
        };
        self.unpacked += read as u64;
        Ok(read)
    }
}

/// Gzip, member after member. NULs behind the last one are padding, as some stores add it.
enum Members<R: BufRead> {
    Within(Box<GzDecoder<R>>),
    /// At the end of one.
    Between(R),
    Moving,
}

impl<R: BufRead> Members<R> {
    fn new(packed: R) -> Self {
        Self::Within(Box::new(GzDecoder::new(packed)))
    }

    fn source(&mut self) -> Option<&mut R> {
        match self {
            Self::Within(member) => Some(member.get_mut()),
            Self::Between(packed) => Some(packed),
            Self::Moving => None,
        }
    }

    /// Goes to the next member, if there is one.
    fn next(&mut self) -> io::Result<bool> {
        if let Self::Within(_) = self
            && let Self::Within(member) = std::mem::replace(self, Self::Moving)
        {
            *self = Self::Between(member.into_inner());
        }
        let Self::Between(packed) = self else { return Ok(false) };
        loop {
            let bytes = packed.fill_buf()?;
            let padding = bytes.iter().take_while(|byte| **byte == 0).count();
            let (length, more) = (bytes.len(), padding < bytes.len());
            if length == 0 {
                return Ok(false);
            }
            packed.consume(padding);
            if more {
                break;
            }
        }
        if let Self::Between(packed) = std::mem::replace(self, Self::Moving) {
            *self = Self::new(packed);
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Self::Within(member) = self {
                let read = member.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

/// The bytes as they come, in full blocks, so that the place at which a damaged file fails does not
/// depend on the pieces in which it came: the decoder gives nothing of the block in which it fails.
#[derive(Default)]
struct Input {
    pieces: VecDeque<Bytes>,
    /// Bytes of the pieces.
    waiting: usize,
    block: Vec<u8>,
    /// How much of the block is read.
    read: usize,
    /// Whether it is sure that these were all, once no more come.
    end: Option<bool>,
}

impl Input {
    fn push(&mut self, bytes: Bytes) -> bool {
        self.waiting += bytes.len();
        self.pieces.push_back(bytes);
        self.waiting >= BLOCK
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.block.len() {
            if self.waiting < BLOCK && self.end.is_none() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.block.clear();
            self.read = 0;
            while let Some(piece) = self.pieces.front_mut()
                && self.block.len() < BLOCK
            {
                let taken = piece.len().min(BLOCK - self.block.len());
                self.block.extend_from_slice(&piece[..taken]);
                piece.advance(taken);
                self.waiting -= taken;
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
            }
        }
        Ok(&self.block[self.read..])
    }

    fn consume(&mut self, amount: usize) {
        self.read += amount;
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
