// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The messages between processes: data only, one file per interface.
//!
//! Every enum in a message is append-only: postcard numbers variants by their order, which the golden files in
//! `tests/golden` pin. The type of a message says how many descriptors it carries; both ends of a channel check that.

use core::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod budget;
pub mod control;
pub mod features;
pub mod function_link;
pub mod inspect;
pub mod lifecycle;
pub mod mover;
pub mod nvme;
pub mod probe;
pub mod ram;
pub mod smmu;
pub mod stage1;
pub mod vcpu;
pub mod vfio;

/// A body of a frame.
pub trait Message: Serialize + DeserializeOwned + Debug + Send + 'static {
    /// How many descriptors this message carries: depends on the variant only.
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
    /// Messages that are answered, from either end.
    type Request: Message;
    /// Replies.
    type Reply: Message;
    /// Events, from either end.
    type Event: Message;
}
