// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stage 1: what a vSMMU tells the devices behind it, and what they tell it.
//!
//! One channel per device. The vSMMU gives orders in the order of the guest's commands; the device carries them out in
//! that order and says how far it is. Neither end waits for the other while it holds anything: all messages are events,
//! and the sequence numbers tell what has been answered. A CMD_SYNC completes when the `Done` of the last order before
//! it has come, or the coordinator has said that the device's DMA has ended. The device end may be a translation engine
//! in software or a host SMMU that nests; the orders are those that both understand.
//!
//! Each life of a vSMMU has a channel of its own to each device
//! ([`Rewire`](crate::protocol::control::Request::Rewire)); what the one before it still says is not followed once the
//! next has greeted.
//!
//! The end of the channel, or of the device's process, proves no end of its DMA; if the vSMMU dies the device keeps
//! what it is attached to.

use serde::{Deserialize, Serialize};
pub use smmu_arch::Attachment;

use crate::addr::StreamId;
use crate::protocol::{Message, Protocol};

/// The most orders in one message: what Linux puts into one batch of commands, several times over, and still a
/// quarter of a frame.
pub const ORDERS_MAX: usize = 512;

/// The interface's name as a type.
#[derive(Debug)]
pub enum Stage1 {}

impl Protocol for Stage1 {
    const NAME: &'static str = "stage1";
    const ID: u16 = 2;
    const VERSION: u16 = 1;
    type Request = Never;
    type Reply = Never;
    type Event = Notice;
}

/// There are no requests: a frame that claims to be one does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

/// What travels. Append only. No fds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// vSMMU to device: carry these out, in order. Answered by [`Notice::Done`] with the same sequence number. At most
    /// [`ORDERS_MAX`]; none only asks how far it is. Idempotent: attaching again, and invalidating again, change
    /// nothing.
    Orders {
        /// One higher than the last, from 1.
        sequence: u64,
        /// What to do.
        orders: Vec<Order>,
    },
    /// Device to vSMMU: all orders up to this number are carried out. No DMA of the device uses anything older.
    Done {
        /// The number of the orders.
        sequence: u64,
        /// How many invalidations were refused: commands that a nesting host does not take. None, unless the vSMMU
        /// sent what it should have handled itself.
        refused: u32,
    },
    /// Device to vSMMU: a transaction was terminated.
    Fault(Fault),
    /// Device to vSMMU: so many faults came too fast to be told.
    FaultsLost {
        /// How many, if the host said.
        count: u64,
    },
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// From now on the stream's DMA is treated so. What was cached for what it was attached to is dropped.
    Attach {
        /// The guest's StreamID.
        stream: StreamId,
        /// How.
        to: Attachment,
    },
    /// Drop cached contexts or translations, as this command of the guest says: its 16 bytes, as two words.
    Invalidate([u64; 2]),
}

/// A terminated transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// An event record as the architecture has it, with the guest's StreamID: 32 bytes, as four words.
    Record([u64; 4]),
    /// The stream is attached to abort. Only the vSMMU knows whether an entry says so, or none could be read, and
    /// which event that is.
    Aborted {
        /// The guest's StreamID.
        stream: StreamId,
    },
}

impl Message for Never {
    fn fd_count(&self) -> u8 {
        match *self {}
    }
}

impl Message for Notice {
    fn fd_count(&self) -> u8 {
        0
    }
}
