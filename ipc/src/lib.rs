// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contract between the processes of one VM: messages, shared memory, addresses, saved state.
//!
//! # Who talks to whom
//!
//! ```text
//!   coordinator --control (channel)------> every process    asks; events come back
//!   vCPU        --ring (shm)-------------> device, vSMMU    asks; answers come back, posts do not
//!   device      --function link (channel)> vCPU             asks: memory of its BARs, and what its vectors mean
//!   device      --vectors (shm, doorbell)> vCPU             says that a message is pending, and never waits
//!   device     <--pin (doorbells)--------> vCPU             asserts its INTx pin; is told of the interrupt's end
//!   vSMMU      <--stage 1 (channel)------> device           orders about its DMA; answers and faults come back
//!   vSMMU       --irq (doorbell)---------> vCPU             a wired interrupt
//!   vSMMU       --register page (shm)----> vCPU, its guest  publishes; the guest reads without asking
//!   device     <--vfio-user (socket)-----> its server       the device itself: registers, DMA, interrupts
//!   each writer --dirty log (shm)--------> coordinator      sets bits; the coordinator takes them
//! ```
//!
//! Nobody else talks to anybody; `cargo xtask system` prints the same of a VM of any shape. The coordinator makes every
//! channel and memory object and hands them over at exec.
//!
//! # Order
//!
//! On one channel messages arrive in the order they were sent. In one ring requests are executed in the order
//! they were queued, posts among them: a read behind a post sees its effect. Between a channel and a ring, or two
//! rings, there is no order but the one an answer gives: what was answered has happened.
//!
//! # What a dead peer means
//!
//! The process of a device takes its device with it, any other the VM; a life of its own with the same fds (its
//! *generation* goes up) comes with a restore. On a channel the asker gets [`error::Error::PeerGone`]; its request was
//! executed or was not, which is why every request says whether it is idempotent. In a ring the asker waits for
//! [`shm::ring::ANSWER_SPAN`]: until then a next life finds the request and executes it, perhaps for the second time.
//! The dirty log and the register page are memory and do not die.
//!
//! # What a hostile peer means
//!
//! Whatever arrives is read once into private memory, checked, and then used. A broken rule is a
//! [`error::Violation`]: that channel or ring is not used any more, the receiver stays well, the supervisor decides.
//! A peer that answers late or never costs a timeout: every wait takes a [`deadline::Deadline`]. What a peer could make
//! last for ever is not called by a thread that serves others: interrupts are [`doorbell`]s, not eventfds.

pub mod addr;
pub mod channel;
pub mod deadline;
pub mod doorbell;
pub mod error;
pub mod eventfd;
pub mod frame;
pub mod hello;
pub mod instance;
pub mod log;
pub mod protocol;
pub mod saved;
pub mod shm;
pub mod slot;
pub mod socket_file;
pub mod vfio_user;
