// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contract between the processes of one VM: messages, shared memory, addresses, saved state.
//!
//! # Connections
//!
//! ```text
//!   coordinator --control (channel)------> every process    requests; replies and events come back
//!   vCPU        --ring (shm)-------------> device, vSMMU    accesses; answered, but for posted writes
//!   device      --function link (channel)> vCPU             requests: memory of its BARs, routes of its vectors
//!   device      --MSIs (shm, doorbell)---> vCPU             pending MSIs; never waits for the vCPU process
//!   device     <--pin (doorbells)--------> vCPU             INTx asserted; end of interrupt
//!   vSMMU      <--stage 1 (channel)------> device           requests about its DMA; answers and faults come back
//!   vSMMU       --irq (doorbell)---------> vCPU             a wired interrupt
//!   vSMMU       --register page (shm)----> vCPU, its guest  registers that the guest reads without an exit
//!   device     <--vfio-user (socket)-----> its server       the device itself: registers, DMA, interrupts
//!   each writer --dirty log (shm)--------> coordinator      pages written; harvested by the coordinator
//! ```
//!
//! There are no other connections; `cargo xtask system` prints those of a VM of any shape. The coordinator makes every
//! channel and memory object, and passes them at exec.
//!
//! # Order
//!
//! Messages on one channel arrive in the order in which they were sent. Accesses in one ring, posted writes included,
//! are executed in the order in which they were queued: a read after a posted write sees its effect. Between two
//! channels or rings there is no order, except that what was answered has been executed.
//!
//! # If a peer dies
//!
//! If a device's process dies the guest loses that device; if any other does, the VM ends. On a channel an open request
//! fails with [`error::Error::PeerGone`]: it was executed or it was not, so every request says whether it is
//! idempotent. A vCPU that waits in a ring waits for [`shm::ring::ANSWER_SPAN`]: if a next life of the process attaches
//! to the ring before, it executes the access, possibly for the second time. Dirty log and register page are memory
//! that outlives the process.
//!
//! # If a peer is hostile
//!
//! What a peer sends is read once into private memory, checked, and then used. A broken rule is an
//! [`error::Violation`]: the channel or ring is closed, the receiver goes on, the coordinator decides. A peer that
//! answers late or never costs a timeout: every wait takes a [`deadline::Deadline`]. A call that a peer could block for
//! ever is not made by a thread that serves others: interrupts go by [`doorbell`]s, not eventfds.

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
pub mod migration;
pub mod protocol;
pub mod saved;
pub mod shm;
pub mod slot;
pub mod socket_file;
#[cfg(not(loom))]
pub mod vfio_user;
