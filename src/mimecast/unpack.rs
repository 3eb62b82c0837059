//! The bytes of a batch file, unpacked: gzip, as it should be; plain lines, where a gateway unpacked
//! it on the way; gzip within gzip, where one packed it again. The bytes say which, not a header.

use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};

use flate2::bufread::GzDecoder;

use crate::pipeline::source::{ReadError, is_unproven_end};

/// How gzip begins. No line of a batch file does.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How much of a compressed file is taken at a time: about what gives a full buffer. Of a damaged
/// file, the lines of the last block are not delivered.
const BLOCK: usize = 16 * 1024;

/// Unpacks a file, and tells a download that broke off from a file that is damaged.
pub(super) struct Unpacker {
    layers: Layers,
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
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self { layers: Layers::Unknown(Input::new(input)), unpacked: 0 }
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
        !self.is_packed() && self.input().is_some_and(|input| input.unproven)
    }

    /// What an error of this reader means for the file.
    pub(super) fn explain(&mut self, error: &io::Error) -> ReadError {
        let offset = self.unpacked;
        let reason = error.to_string();
        let Some(input) = self.input() else { return ReadError::Damaged { offset, reason } };
        // Whether the file is damaged is only known when all of it has arrived.
        let drained = match input.broken.take() {
            Some(broken) => Err(broken),
            None => io::copy(input, &mut io::sink())
                .map(drop)
                .map_err(|error| input.broken.take().unwrap_or(error)),
        };
        match drained {
            Err(broken) => ReadError::Broken(broken),
            Ok(()) if input.unproven && error.kind() == ErrorKind::UnexpectedEof => {
                let reason = "the connection was closed, and nothing says that this was the end";
                ReadError::Broken(io::Error::other(reason))
            }
            Ok(()) => ReadError::Damaged { offset, reason },
        }
    }

    fn input(&mut self) -> Option<&mut Input> {
        match &mut self.layers {
            Layers::Unknown(input) | Layers::None(input) => Some(input),
            Layers::One(members) => members.source(),
            Layers::Two(members) => members.source()?.get_mut().1.get_mut().source(),
            Layers::Moving => None,
        }
    }

    /// Looks how the file begins. A file of zero bytes is an empty file, not gzip without its header.
    fn begin(&mut self) -> io::Result<()> {
        let Layers::Unknown(input) = &mut self.layers else { return Ok(()) };
        if input.fill_buf()?.is_empty() {
            return Ok(());
        }
        self.layers = match std::mem::replace(&mut self.layers, Layers::Moving) {
            Layers::Unknown(input) if input.bytes.buffer().starts_with(&GZIP) => {
                Layers::One(Box::new(Members::new(input)))
            }
            Layers::Unknown(input) => Layers::None(input),
            known => known,
        };
        Ok(())
    }

    /// Unpacks what is still packed: `head` is how the first layer's content begins.
    fn unpack_again(&mut self, head: &[u8]) {
        self.layers = match std::mem::replace(&mut self.layers, Layers::Moving) {
            Layers::One(members) => {
                let head = Cursor::new(head.to_vec());
                let rest = BufReader::with_capacity(BLOCK, members);
                Layers::Two(Box::new(Members::new(head.chain(rest))))
            }
            known => known,
        };
    }
}

impl Read for Unpacker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        let first = self.unpacked == 0;
        let read = match &mut self.layers {
            Layers::Unknown(_) | Layers::Moving => 0,
            Layers::None(input) => input.read(buffer)?,
            Layers::One(members) if first => {
                let read = read_head(members, buffer)?;
                if buffer[..read].starts_with(&GZIP) {
                    self.unpack_again(&buffer[..read]);
                    return self.read(buffer);
                }
                read
            }
            Layers::One(members) => members.read(buffer)?,
            Layers::Two(members) => members.read(buffer)?,
        };
        self.unpacked += read as u64;
        Ok(read)
    }
}

/// Reads until it is known how the bytes begin.
fn read_head(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < GZIP.len().min(buffer.len()) {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
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

/// The bytes as they come. It remembers that they ended in an error.
struct Input {
    bytes: BufReader<Blocks>,
    broken: Option<io::Error>,
    /// The bytes ended, and nothing says that this is the file's end.
    unproven: bool,
}

/// Gives full blocks, so that the place at which a damaged file fails does not depend on the pieces
/// in which it came: the decoder gives nothing of the block in which it fails.
struct Blocks {
    bytes: Box<dyn Read + Send>,
    broken: Option<io::Error>,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.broken.is_none() {
            match self.bytes.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => self.broken = Some(error),
            }
        }
        match self.broken.take_if(|_| filled == 0) {
            Some(broken) => Err(broken),
            None => Ok(filled),
        }
    }
}

impl Input {
    fn new(bytes: Box<dyn Read + Send>) -> Self {
        let blocks = Blocks { bytes, broken: None };
        let bytes = BufReader::with_capacity(BLOCK, blocks);
        Self { bytes, broken: None, unproven: false }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.broken.is_none()
            && !self.unproven
            && let Err(error) = self.bytes.fill_buf()
        {
            match is_unproven_end(&error) {
                true => self.unproven = true,
                false => self.broken = Some(error),
            }
        }
        match &self.broken {
            Some(broken) => Err(io::Error::other(broken.to_string())),
            None => Ok(self.bytes.buffer()),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.bytes.consume(amount);
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
