// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migration: a guest moves from the processes of one host into those of another.
//!
//! ```text
//!   source                                             destination
//!   Offer ───────────────────────────────────────────► compares; processes configured, devices bound
//!                        ◄──────────────────────────── Accept, or Refuse with every difference
//!   rounds of pages ─────────────────────────────────► RAM
//!   pause; disks released; last pages, units
//!   Last (digest of all units) ──────────────────────► disks locked; Load, Arm, Replay
//!                        ◄──────────────────────────── Ready, or Failed: the source goes on
//!   Commit ──────────────────────────────────────────► Go
//!   ends                 ◄──────────────────────────── Running
//! ```
//!
//! [`source`] and [`destination`] are pure state machines: events in, actions out. What they promise is checked by
//! running the two against each other through every order of messages, cuts, deaths and cancellations that there is
//! (`tests.rs`): at most one side ever runs the guest. A source that has sent `Commit` never runs it again of
//! itself: if the answer is lost it stays paused and says so, and a person decides, who is told what the other host
//! says ([`question`]). [`convergence`] decides when to switch over.

pub mod convergence;
pub mod destination;
pub mod features;
pub mod message;
pub mod offer;
pub mod question;
pub mod source;

#[cfg(test)]
mod tests;
