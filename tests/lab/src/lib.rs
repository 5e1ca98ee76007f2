// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Arm lab from inside: an emulated arm64 server on which the programs that ship meet the real kernel.
//!
//! `cargo xtask lab` boots the server; `lab-runner` in it runs the scenarios of [`scenarios::ALL`], each in a process
//! of its own, and sends the records of [`report`]. This crate links nothing of the product: a scenario runs the
//! programs from outside, or a suite that was cross-built with the crate it belongs to.

pub mod places;
pub mod report;
pub mod runner;
pub mod scenarios;
pub mod seen;
pub mod suite;
