// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who is answered, and what is believed.

use super::*;

fn key(migration: u8, secret: &str) -> Key {
    Key::new(MigrationId([migration; 16]), secret.as_bytes().to_vec())
}

fn asked(key: &Key) -> (Question, [u8; QUESTION_LEN]) {
    let (question, bytes) = key.ask([9; 16]).unwrap();
    (question, bytes.try_into().unwrap())
}

fn answer(key: &Key, bytes: &[u8; QUESTION_LEN]) -> [u8; ANSWER_LEN] {
    key.answer(bytes).unwrap().try_into().unwrap()
}

#[test]
fn host_says_that_the_guest_of_this_migration_is_there_and_that_it_knows_no_other() {
    let (question, bytes) = asked(&key(3, "secret"));
    for (host, expected) in [(3, Whereabouts::There), (4, Whereabouts::Unknown)] {
        let answer = answer(&key(host, "secret"), &bytes);
        assert_eq!(key(3, "secret").read(&question, &answer), Some(expected));
    }
}

#[test]
fn question_and_answer_of_version_one_have_these_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (_, bytes) = asked(&key(3, "secret"));
    assert_eq!(hex(&bytes), QUESTION);
    assert_eq!(hex(&answer(&key(3, "secret"), &bytes)), THERE_ANSWER);
}

/// Computed apart from this code (Python's `hmac`): magic, migration, nonce, and HMAC-SHA-256 of label and both.
const QUESTION: &str = "62756c6b686561642061736b7320310a0303030303030303030303030303030309090909090909090909090909090909\
9be0af4220a27e387839b395400b8b60eb66cdf59b70ed4982ff9fa952cbc6b1";
const THERE_ANSWER: &str = "01513f6eb0ff2d90abe9030e0f0d816f61f745f1b786b52dbc70b680dea0d8a3fb";

#[test]
fn changed_question_or_one_with_another_secret_is_not_answered() {
    let (_, bytes) = asked(&key(3, "secret"));
    assert_eq!(key(3, "other").answer(&bytes), None);
    for at in 0..bytes.len() {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert_eq!(key(3, "secret").answer(&changed), None, "byte {at}");
    }
}

#[test]
fn changed_answer_or_one_to_another_question_is_not_believed() {
    let ours = key(3, "secret");
    let (question, bytes) = asked(&ours);
    let answer = answer(&ours, &bytes);
    for at in 0..answer.len() {
        let mut changed = answer;
        changed[at] ^= 1;
        assert_eq!(ours.read(&question, &changed), None, "byte {at}");
    }
    let (other, _) = ours.ask([8; 16]).unwrap();
    assert_eq!(ours.read(&other, &answer), None, "an answer that was given before");
    assert_eq!(key(3, "other").read(&question, &answer), None);
    // A question is no answer.
    let (word, code) = (THERE, &bytes[48..]);
    let forged = [&[word][..], code].concat().try_into().unwrap();
    assert_eq!(ours.read(&question, &forged), None);
}
