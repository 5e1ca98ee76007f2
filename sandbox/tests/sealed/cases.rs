// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cases, by subject. Every one starts real processes and leaves none behind.

use crate::harness::Case;

mod attack;
mod death;
pub mod leftovers;
mod outside;
mod refusal;
pub mod table;
mod unprivileged;
mod work;

pub fn all() -> Vec<Case> {
    [
        work::CASES,
        attack::CASES,
        death::CASES,
        table::CASES,
        outside::CASES,
        refusal::CASES,
        leftovers::CASES,
        unprivileged::CASES,
    ]
    .concat()
}
