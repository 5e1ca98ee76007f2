// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A public suite of guests for arm64 KVM (kvm-unit-tests), run on our machine: which cases, how, and what came of
//! them.
//!
//! The suite's guests are flat images that were built outside the tree; nothing of them is part of the project. Here
//! are their arguments, how an image becomes a kernel ([`image`]), the machine it runs on ([`run`]) and the meaning of
//! what it prints ([`outcome`]). Callers: `cargo xtask arm-suite`, the Arm lab.

pub mod cases;
pub mod image;
pub mod outcome;
pub mod run;

pub use cases::{CASES, Case};
pub use outcome::Outcome;
pub use run::Machine;
