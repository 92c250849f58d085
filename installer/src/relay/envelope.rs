//! What agents send each other, sealed: nobody without the domain's key reads it, makes it up, or sends it twice.
//!
//! A datagram is a header, and a message sealed by AES-256-GCM with the header as associated data:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | tag of the domain: the beginning of SHA-256 over a label and its name |
//! | 8 | session of the sender: random, new each time its agent starts |
//! | 8 | session of the receiver; 0 while the sender does not know it |
//! | 8 | number: never twice in a session of the sender |
//!
//! Numbers are big endian. The key of a datagram follows from the domain's and both sessions (HKDF-SHA256, RFC 5869), and its
//! number is the nonce: so no nonce comes twice with a key. What names the receiver's session was sent since that agent
//! started, and the [`Window`] takes each number once: nothing recorded before is of use. What does not name it proves
//! nothing but that somebody once knew the key.

use std::{fmt, fs, path::Path};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Prk, Salt},
    rand::{SecureRandom as _, SystemRandom},
};

/// Bytes before what is sealed.
pub(super) const HEADER: usize = 28;
/// The shortest key, in bytes: with fewer it could be guessed from a datagram.
const SHORTEST: usize = 32;
const LONGEST: usize = 1024;
/// Names the purpose, and the version of all this.
const LABEL: &[u8] = b"iocast relay 1";

/// What stands before what is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tag: [u8; 4],
    pub(super) sender: u64,
    /// 0 if the sender does not know it.
    pub(super) receiver: u64,
    pub(super) number: u64,
}

impl Header {
    /// That of a datagram, and what is sealed.
    pub(super) fn read(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (tag, rest) = datagram.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (receiver, rest) = rest.split_first_chunk()?;
        let (number, sealed) = rest.split_first_chunk()?;
        let [sender, receiver, number] = [sender, receiver, number].map(|bytes| u64::from_be_bytes(*bytes));
        Some((Self { tag: *tag, sender, receiver, number }, sealed))
    }

    fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&self.tag);
        bytes[4..12].copy_from_slice(&self.sender.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.receiver.to_be_bytes());
        bytes[20..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }
}

/// A domain's key.
#[derive(Clone)]
pub(super) struct Key {
    tag: [u8; 4],
    secret: Prk,
    /// Tells whether another one is the same.
    digest: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Key {
    /// The key of a domain that a file holds.
    pub(super) fn read(domain: &str, path: &Path) -> Result<Self, String> {
        let fault = |reason: String| format!("key {}: {reason}", path.display());
        let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let key = text.trim();
        if !(SHORTEST..=LONGEST).contains(&key.len()) {
            let reason = format!("it has {} bytes, and must have {SHORTEST} to {LONGEST}", key.len());
            return Err(fault(format!("{reason}: openssl rand -hex 32")));
        }
        Ok(Self::new(domain, key))
    }

    pub(super) fn new(domain: &str, key: &str) -> Self {
        let sum = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default();
        let named = [LABEL, b"\0", domain.as_bytes()].concat();
        let [a, b, c, d, ..]: [u8; 32] = sum(&named);
        let secret = Salt::new(HKDF_SHA256, &named).extract(key.as_bytes());
        Self { tag: [a, b, c, d], secret, digest: sum(&[named.as_slice(), b"\0", key.as_bytes()].concat()) }
    }

    /// The tag of its domain.
    pub(super) fn tag(&self) -> [u8; 4] {
        self.tag
    }

    /// What seals and opens what is sent from one session to another.
    pub(super) fn between(&self, sender: u64, receiver: u64) -> Result<LessSafeKey, Unspecified> {
        let sessions = [sender.to_be_bytes(), receiver.to_be_bytes()].concat();
        let info = [LABEL, &sessions];
        Ok(LessSafeKey::new(UnboundKey::from(self.secret.expand(&info, &AES_256_GCM)?)))
    }
}

/// Seals a message.
pub(super) fn seal(key: &LessSafeKey, header: &Header, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let bytes = header.bytes();
    let mut datagram = Vec::with_capacity(HEADER + message.len() + AES_256_GCM.tag_len());
    datagram.extend(bytes);
    datagram.extend(message);
    let tag = key.seal_in_place_separate_tag(nonce(header), Aad::from(bytes), &mut datagram[HEADER..])?;
    datagram.extend(tag.as_ref());
    Ok(datagram)
}

/// Opens one.
pub(super) fn open(key: &LessSafeKey, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut message = sealed.to_vec();
    let length = key.open_in_place(nonce(header), Aad::from(header.bytes()), &mut message)?.len();
    message.truncate(length);
    Ok(message)
}

fn nonce(header: &Header) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&header.number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// A session that nobody had before; never 0.
pub(super) fn session() -> Result<u64, Unspecified> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}

/// Words of a window.
const WORDS: usize = 32;

/// Which numbers have come: each is taken once, and none that is much older than the newest.
#[derive(Clone, Debug)]
pub(super) struct Window {
    newest: u64,
    seen: [u64; WORDS],
}

impl Window {
    pub(super) const NEW: Self = Self { newest: 0, seen: [0; WORDS] };
    /// How many are told apart.
    const SIZE: u64 = WORDS as u64 * 64;

    /// Whether `number`, which is not 0, has not come yet; from now on it has.
    pub(super) fn take(&mut self, number: u64) -> bool {
        if number > self.newest {
            let passed = (self.newest + 1..=number).rev().take(Self::SIZE as usize);
            passed.for_each(|passed| self.set(passed, false));
            self.newest = number;
        } else if self.newest - number >= Self::SIZE || self.has(number) {
            return false;
        }
        self.set(number, true);
        true
    }

    fn has(&self, number: u64) -> bool {
        self.seen[(number / 64) as usize % WORDS] >> (number % 64) & 1 != 0
    }

    fn set(&mut self, number: u64, came: bool) {
        let word = &mut self.seen[(number / 64) as usize % WORDS];
        *word = *word & !(1 << (number % 64)) | u64::from(came) << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn header(key: &Key) -> Header {
        Header { tag: key.tag(), sender: 7, receiver: 9, number: 1 }
    }

    #[test]
    fn who_has_the_key_reads_what_another_has_sealed() {
        let (one, other) = (Key::new("bl07", SECRET), Key::new("bl07", SECRET));
        let sealed = seal(&one.between(7, 9).unwrap(), &header(&one), b"search").unwrap();
        let (read, rest) = Header::read(&sealed).unwrap();
        assert_eq!((read, sealed.len()), (header(&other), HEADER + 6 + 16));
        assert_eq!(open(&other.between(7, 9).unwrap(), &read, rest).unwrap(), b"search");
        assert!(one == other && one != Key::new("bl08", SECRET));
    }

    #[test]
    fn what_was_changed_or_is_for_others_does_not_open() {
        let key = Key::new("bl07", SECRET);
        let sealed = seal(&key.between(7, 9).unwrap(), &header(&key), b"search").unwrap();
        let opens = |key: &Key, datagram: &[u8], (sender, receiver)| {
            let (header, rest) = Header::read(datagram).unwrap();
            open(&key.between(sender, receiver).unwrap(), &header, rest).is_ok()
        };
        assert!(opens(&key, &sealed, (7, 9)));
        for wrong in [Key::new("bl08", SECRET), Key::new("bl07", "another key of 32 bytes, or some")] {
            assert!(!opens(&wrong, &sealed, (7, 9)));
        }
        assert!(!opens(&key, &sealed, (9, 7)) && !opens(&key, &sealed, (7, 0)));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(!opens(&key, &changed, (7, 9)), "byte {at}");
        }
        assert!(Header::read(&sealed[..HEADER - 1]).is_none());
    }

    proptest! {
        #[test]
        fn a_window_takes_each_number_once_and_none_that_is_too_old(
            numbers in prop::collection::vec(prop_oneof![1u64..40, 1u64..5000, any::<u32>().prop_map(|n| u64::from(n) + 1)], 1..200),
        ) {
            let (mut window, mut seen) = (Window::NEW, BTreeSet::new());
            for number in numbers {
                let newest = seen.last().copied().unwrap_or(0);
                let is_old = newest >= number + Window::SIZE;
                prop_assert_eq!(window.take(number), !is_old && !seen.contains(&number));
                seen.insert(number);
            }
        }
    }
}
