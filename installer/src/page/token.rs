//! The token that lets somebody see the page's data, and the proofs by which agents show each other that they have the same one.
//!
//! A browser sends the token itself, in a header. Between agents it never travels, because an agent cannot know yet whom it
//! asks: both show that they know it by a code over the token and a secret that only the two ends of this TLS connection have
//! (RFC 8446, 7.5). Somebody between them has two connections with two secrets, so that a proof that is passed on proves nothing.

use std::{fmt, fs, path::Path};

use ring::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, Tag, sign, verify},
};
use rustls::ConnectionCommon;

use crate::error::Error;

/// The shortest token, in bytes: with fewer it could be guessed from a proof.
const SHORTEST: usize = 32;
const LONGEST: usize = 1024;
/// Names the secret of a connection.
const LABEL: &[u8] = b"EXPORTER-iocast-page";

/// What a client shows that knows the token.
pub(super) enum Shown<'a> {
    /// The token.
    Token(&'a str),
    /// A proof.
    Proof(&'a str),
}

impl<'a> Shown<'a> {
    /// From the header `Authorization`.
    pub(super) fn read(header: &'a str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ')?;
        match scheme {
            _ if scheme.eq_ignore_ascii_case("bearer") => Some(Self::Token(rest.trim())),
            "Iocast" => Some(Self::Proof(rest.trim())),
            _ => None,
        }
    }
}

/// A secret that both ends of a connection have, and nobody else.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Default))]
pub(super) struct Channel([u8; 32]);

impl Channel {
    /// Of a connection whose handshake is complete.
    pub(super) fn of<Side>(connection: &ConnectionCommon<Side>) -> Option<Self> {
        connection.export_keying_material([0; 32], LABEL, None).ok().map(Self)
    }
}

/// Who proves something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Asks,
    Answers,
}

impl Role {
    /// What is proved: a proof of one is none of the other.
    fn message(self, channel: &Channel, question: &str) -> Vec<u8> {
        let role: &[u8] = if self == Self::Asks { b"asks\0" } else { b"answers\0" };
        [role, &channel.0, question.as_bytes()].concat()
    }
}

/// The token.
pub(super) struct Token {
    key: Key,
    /// Tells whether another one is the same, in a time that does not depend on it.
    tag: Tag,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads it: it may be changed at any time.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let fault = |reason: String| Error::Page { what: format!("token {}", path.display()), reason };
        let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        Self::new(text.trim()).map_err(fault)
    }

    fn new(token: &str) -> Result<Self, String> {
        if !(SHORTEST..=LONGEST).contains(&token.len()) {
            return Err(format!(
                "it has {} bytes, and must have {SHORTEST} to {LONGEST}: openssl rand -hex 32",
                token.len()
            ));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "it must consist of visible ASCII characters, as openssl rand -hex 32 makes it".into()
            );
        }
        let key = Key::new(HMAC_SHA256, token.as_bytes());
        Ok(Self { tag: sign(&key, digest(&SHA256, token.as_bytes()).as_ref()), key })
    }

    /// Whether somebody knows it who asks `question` on this connection. Takes as long for any wrong one.
    pub(super) fn is_known(&self, shown: &Shown<'_>, channel: &Channel, question: &str) -> bool {
        match shown {
            Shown::Token(token) => {
                verify(&self.key, digest(&SHA256, token.as_bytes()).as_ref(), self.tag.as_ref()).is_ok()
            }
            Shown::Proof(proof) => self.is_proved(Role::Asks, channel, question, proof),
        }
    }

    /// A proof for the other end of this connection.
    pub(super) fn prove(&self, role: Role, channel: &Channel, question: &str) -> String {
        let proof = sign(&self.key, &role.message(channel, question));
        proof.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the other end has proved that it knows it.
    pub(super) fn is_proved(&self, role: Role, channel: &Channel, question: &str, proof: &str) -> bool {
        bytes(proof).is_some_and(|proof| verify(&self.key, &role.message(channel, question), &proof).is_ok())
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "0123456789abcdef0123456789abcdee";
    const HERE: Channel = Channel([1; 32]);
    const THERE: Channel = Channel([2; 32]);

    #[test]
    fn a_token_is_long_and_can_stand_in_a_header() {
        let long = "x".repeat(LONGEST + 1);
        for wrong in ["", "secret", &TOKEN[1..], &long, &TOKEN.replace('0', " "), &TOKEN.replace('0', "ä")] {
            assert!(Token::new(wrong).is_err(), "{wrong}");
        }
        assert!(Token::new(TOKEN).is_ok());
        assert_eq!(format!("{:?}", Token::new(TOKEN).unwrap()), "Token", "it is never logged");
    }

    #[test]
    fn a_header_shows_the_token_or_a_proof() {
        let token = Token::new(TOKEN).unwrap();
        for (header, expected) in [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer  {TOKEN} "), true),
            (format!("Bearer {OTHER}"), false),
            (format!("Bearer {TOKEN}0"), false),
            (format!("Bearer {}", &TOKEN[..31]), false),
            ("Bearer ".into(), false),
            ("Bearer".into(), false),
            (format!("Basic {TOKEN}"), false),
            (format!("Iocast {TOKEN}"), false),
            ("Iocast".into(), false),
            ("Iocast +1+1".into(), false),
            (format!("Iocast {}", token.prove(Role::Asks, &HERE, "/x")), true),
            (format!("Iocast {}", token.prove(Role::Asks, &HERE, "/y")), false),
            (format!("Iocast {}", token.prove(Role::Asks, &THERE, "/x")), false),
            (format!("Iocast {}", token.prove(Role::Answers, &HERE, "/x")), false),
            (format!("Iocast {}", Token::new(OTHER).unwrap().prove(Role::Asks, &HERE, "/x")), false),
            (String::new(), false),
        ] {
            let shown = Shown::read(&header);
            let found = shown.is_some_and(|shown| token.is_known(&shown, &HERE, "/x"));
            assert_eq!(found, expected, "{header}");
        }
    }
}
