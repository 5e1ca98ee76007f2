// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What processes say to each other: data only, one file per interface.
//!
//! Every enum that travels is append-only: postcard numbers variants by their order, and the golden files in
//! `tests/golden` fail when a number moves. A protocol names its messages' types and how many fds each
//! message has; the channels check that number on both ends.

use core::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod budget;
pub mod control;
pub mod function_link;
pub mod inspect;
pub mod lifecycle;
pub mod nvme;
pub mod probe;
pub mod ram;
pub mod smmu;
pub mod stage1;
pub mod vcpu;
pub mod vfio;

/// A body of a frame.
pub trait Message: Serialize + DeserializeOwned + Debug + Send + 'static {
    /// How many fds travel with this message: a function of the variant, never of its content.
    fn fd_count(&self) -> u8;
}

/// An interface that two processes speak over one channel.
pub trait Protocol: 'static {
    /// For logs and errors.
    const NAME: &'static str;
    /// Its number in the frame header. Never reused.
    const ID: u16;
    /// Its version in the frame header: one higher with every change of any of its messages.
    const VERSION: u16;
    /// What the asking end sends.
    type Request: Message;
    /// What the asked end answers.
    type Reply: Message;
    /// What either end tells without being asked.
    type Event: Message;
}
