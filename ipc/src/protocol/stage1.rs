// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stage 1: requests of the vSMMU to a device behind it, the device's answers, and its translation faults.
//!
//! One channel per device. The vSMMU sends requests in the order of the guest's commands; the device carries them out
//! in that order and answers each message with `Done`. No end waits for the other while it holds a lock, so all
//! messages are events of the channel, and sequence numbers say which requests a `Done` answers. A CMD_SYNC completes
//! when the last requests before it are answered, or the coordinator has said that the device's DMA has ended. The
//! device end may be a translation engine in software or a host SMMU that nests; the requests are those that both
//! understand.
//!
//! Each life of the vSMMU has a channel of its own to each device
//! ([`Rewire`](crate::protocol::control::Request::Rewire)). Once the next life has said hello, requests of the one
//! before are no longer carried out.
//!
//! That the channel or the device's process has ended does not prove that its DMA has. If the vSMMU dies, the device
//! stays attached as it is.

use serde::{Deserialize, Serialize};
pub use smmu_arch::Attachment;

use crate::addr::StreamId;
use crate::protocol::{Message, Protocol};

/// The most requests in one message: several of the command batches that Linux issues, and a quarter of a frame.
pub const REQUESTS_MAX: usize = 512;

/// The stage 1 interface.
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

/// There are no requests or replies in the sense of [`Protocol`]: such a frame does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

/// A message of either end. Append only. No descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// vSMMU to device: carry these out in order. Answered by [`Notice::Done`] with the same sequence number. At most
    /// [`REQUESTS_MAX`]; an empty list is a barrier. Idempotent: to attach or invalidate a second time changes nothing.
    Requests {
        /// One higher than the last, from 1.
        sequence: u64,
        /// To be carried out in this order.
        requests: Vec<Stage1Request>,
    },
    /// Device to vSMMU: all requests up to this sequence number are carried out. No DMA of the device uses an older
    /// attachment or translation.
    Done {
        /// That of the last message carried out.
        sequence: u64,
        /// How many of its requests were refused: attachments that failed, and commands that a nesting host does not
        /// take.
        refused: u32,
    },
    /// Device to vSMMU: a transaction was terminated.
    Fault(Fault),
    /// Device to vSMMU: this many faults were dropped for lack of room.
    FaultsLost {
        /// How many, at least: the host does not count all.
        count: u64,
    },
}

/// One request to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage1Request {
    /// Attach the stream: its DMA is translated this way from now on. Cached translations of the attachment before are
    /// dropped.
    Attach {
        /// The guest's StreamID.
        stream: StreamId,
        /// To abort, bypass, or stage 1.
        to: Attachment,
    },
    /// Invalidate cached configuration or translations as this command of the guest says (IHI 0070 §4): its 16 bytes,
    /// as two 64-bit words.
    Invalidate([u64; 2]),
}

/// A terminated transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// An event record (IHI 0070 §7.3) with the guest's StreamID: 32 bytes, as four 64-bit words.
    Record([u64; 4]),
    /// A transaction of a stream that is attached to abort. Only the vSMMU knows whether its STE says so or could not
    /// be read, and so which event to record.
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
