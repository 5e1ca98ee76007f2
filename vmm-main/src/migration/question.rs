// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where is the guest? What a source that has sent `Commit`, and lost the connection over it, asks the other host.
//!
//! It asks on a connection of its own, without a mover and in the clear: the answer is no secret, and neither side
//! believes what was not made with the secret that both coordinators have. A question has a nonce, so that no answer
//! counts for another one; it names its migration, so that a host that has taken a guest by another one says that it
//! does not know this one. Fixed layout: golden bytes are in `question/tests.rs`.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ipc::migration::frame::MigrationId;
use sha2::Sha256;

use super::source::Whereabouts;

/// The length of a question.
pub const QUESTION_LEN: usize = MAGIC.len() + 2 * ID_LEN + CODE_LEN;
/// The length of an answer.
pub const ANSWER_LEN: usize = 1 + CODE_LEN;

/// For a question to come and be answered.
pub const ANSWER_SPAN: Duration = Duration::from_secs(5);

/// How a question begins.
const MAGIC: [u8; 16] = *b"bulkhead asks 1\n";
/// Of the migration's number, and of the nonce.
const ID_LEN: usize = 16;
const CODE_LEN: usize = 32;

const THERE: u8 = 1;
const UNKNOWN: u8 = 2;

/// What makes questions and answers authentic: one migration, and the secret that was given for it.
#[derive(Clone)]
pub struct Key {
    migration: MigrationId,
    secret: Vec<u8>,
}

/// A question that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    migration: MigrationId,
    nonce: [u8; ID_LEN],
}

impl Key {
    /// Of this migration.
    pub const fn new(migration: MigrationId, secret: Vec<u8>) -> Self {
        Self { migration, secret }
    }

    /// A question about it, with a nonce that was just drawn, and as it travels.
    pub fn ask(&self, nonce: [u8; ID_LEN]) -> Option<(Question, Vec<u8>)> {
        let question = Question { migration: self.migration, nonce };
        let code = self.code(&question, None)?.finalize().into_bytes();
        Some((question, [&MAGIC[..], &question.migration.0, &nonce, &code].concat()))
    }

    /// The answer of a host that holds the guest of this key's migration. None: it was not asked by somebody who has
    /// the secret.
    pub fn answer(&self, asked: &[u8; QUESTION_LEN]) -> Option<Vec<u8>> {
        let (magic, rest) = asked.split_first_chunk::<{ MAGIC.len() }>()?;
        let (migration, rest) = rest.split_first_chunk()?;
        let (nonce, code) = rest.split_first_chunk()?;
        let question = Question { migration: MigrationId(*migration), nonce: *nonce };
        self.code(&question, None)?.verify_slice(code).ok().filter(|()| *magic == MAGIC)?;
        let word = if question.migration == self.migration { THERE } else { UNKNOWN };
        let code = self.code(&question, Some(word))?.finalize().into_bytes();
        Some([&[word][..], &code].concat())
    }

    /// What the answer to this question says. None: it is not authentic.
    pub fn read(&self, question: &Question, answer: &[u8; ANSWER_LEN]) -> Option<Whereabouts> {
        let (word, code) = answer.split_first()?;
        self.code(question, Some(*word))?.verify_slice(code).ok()?;
        match *word {
            THERE => Some(Whereabouts::There),
            UNKNOWN => Some(Whereabouts::Unknown),
            _ => None,
        }
    }

    /// The code of a question, or of this answer to it.
    fn code(&self, question: &Question, answer: Option<u8>) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).ok()?;
        mac.update(match answer {
            None => b"bulkhead question 1",
            Some(_) => b"bulkhead answer 1",
        });
        mac.update(&question.migration.0);
        mac.update(&question.nonce);
        mac.update(answer.as_slice());
        Some(mac)
    }
}

/// Without the secret.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("migration", &self.migration).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
