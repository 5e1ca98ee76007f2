// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attempts on the sandbox by name, for the control channel's probes.
//!
//! Besides those of `probe` there are two that concern the supervisor and not the filter: `panic` and `hang`.
//! A release build attempts nothing.

/// Makes the attempt called `name`: `Err` is the error number it was refused with, `Ok` a hole. Does not return from
/// one that ends the process. `None` if nothing is called so.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "asked for, to see that a panic is reported")]
pub fn attempt(name: &str) -> Option<Result<(), i32>> {
    use crate::probe::{self, Attempt, Outcome};
    match name {
        "panic" => panic!("a panic was asked for"),
        "hang" => loop {
            std::thread::park();
        },
        name => Attempt::by_name(name).map(|attempt| match probe::attempt(attempt) {
            Outcome::Refused(errno) => Err(errno),
            Outcome::Succeeded => Ok(()),
        }),
    }
}

/// A release build attempts nothing.
#[cfg(not(debug_assertions))]
pub fn attempt(_name: &str) -> Option<Result<(), i32>> {
    None
}
