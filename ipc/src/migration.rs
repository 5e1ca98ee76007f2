// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration stream: what travels between the movers of two hosts.
//!
//! ```text
//!   source                                                       destination
//!     lane 0     Hello, (Pages | ZeroPages | EndOfRound | Unit | Message | Alive)* ──►
//!     lane 1..   Hello, (Pages | ZeroPages | EndOfRound)* ──────────────────────────►
//!     lane 0  ◄─────────────────────────────────────── Hello, (Message | Alive)*
//!     lane 1..◄─────────────────────────────────────── Hello
//! ```
//!
//! A migration has 1 to [`LANES_MAX`] connections, its *lanes*. Each begins with a [`frame::Hello`] and is a sequence
//! of frames from then on ([`frame`]): a fixed header with length and checksum, and a body of at most
//! [`frame::BODY_LEN_MAX`]. Which lane a page travels in follows from its address ([`pages::Stretch::lane`]), so that a
//! copy of a page is never overtaken by an older one, whatever the network does between lanes. `EndOfRound` stands in
//! every lane, in lane 0 behind all others: what follows it there is acted upon when all lanes are through with the
//! round. `Alive` is sent where nothing else is for some seconds: a host that is silent for longer is lost.
//!
//! What decides is in messages, which are opaque here: coordinators write, authenticate and read them. Everything is
//! untrusted input of the other host: sizes are checked before anything is read or allocated by them, the checksum
//! before anything is looked at. The format depends on no build: golden bytes hold it, and [`frame::FORMAT`] goes up
//! with a change.

pub mod frame;
pub mod pages;
pub mod unit;

/// The most connections of one migration.
pub const LANES_MAX: u8 = 16;
