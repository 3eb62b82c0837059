//! The identity of an event.

use std::fmt;

use sha2::{Digest, Sha256};

/// The event's identity: the first 128 bits of SHA-256 over the line as received, without its line
/// end (`\n` or `\r\n`). Cryptographic, because outsiders write parts of an event. Its `Display` is
/// lower-case hex, as the column `EventId` has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// The id of a whole line.
    pub fn of(line: &[u8]) -> Self {
        let mut hasher = EventIdHasher::new();
        hasher.update(line);
        hasher.finish()
    }

    /// The id in lower-case hex.
    pub(super) fn hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Makes an [`EventId`] from a line that comes in pieces, such as one too long to be held.
#[derive(Clone, Debug, Default)]
pub struct EventIdHasher(Sha256);

impl EventIdHasher {
    /// A hasher that has seen nothing of the line yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the line's next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of the line that the pieces make up.
    pub fn finish(self) -> EventId {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        EventId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_first_half_of_sha_256_in_hex() {
        let id = EventId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(id.hex(), *b"ba7816bf8f01cfea414140de5dae2223");
    }

    #[test]
    fn is_the_same_however_the_line_is_cut() {
        let line = br#"{"subject":"Invoice","timestamp":1700000000000}"#;
        for cut in 0..=line.len() {
            let mut hasher = EventIdHasher::new();
            hasher.update(&line[..cut]);
            hasher.update(&line[cut..]);
            assert_eq!(hasher.finish(), EventId::of(line));
        }
    }
}
