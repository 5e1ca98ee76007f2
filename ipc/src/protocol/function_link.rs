// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function link: requests of the process of a PCI function to the vCPU process, which has the guest's address
//! space.
//!
//! One channel per function, so that a process cannot make requests for another function. Accesses go through the
//! function's ring; the requests here are rare: which parts of its BARs the guest may access as memory without an exit,
//! and when; which eventfds its vectors signal, and where they are routed. All requests are idempotent but
//! [`FunctionRequest::AddWindow`] and [`FunctionRequest::AddVector`]. If the vCPU process dies the VM ends; if the
//! function's process dies its windows are hidden, its vectors stay routed, and its accesses read as all ones. If that
//! has a next life, its accesses wait for that, which adds windows of its own; each vector stays as it is until the
//! next life adds it again, and has no route then before that gives it one.
//!
//! A window is memory of the *device's server*, which is not trusted: it is mapped only if no access to it can fault
//! ([`crate::shm::device_memory`] has the rules). Or it is a part of a BAR of the physical device, which only the guest
//! accesses ([`crate::shm::host_bar`]).

use serde::{Deserialize, Serialize};

use crate::protocol::stage1::Never;
use crate::protocol::{Message, Protocol};

/// The most windows of one function. Each keeps a descriptor and, with KVM, a memory slot.
pub const WINDOWS_MAX: usize = 8;

/// The most bytes in all windows of one function that are a server's memory. A page that the server has not allocated
/// is charged to the process that touches it first, so that a guest could use up the vCPU process's memory limit.
pub const WINDOWS_LEN_MAX: u64 = 1 << 30;

/// The alignment of a window's start and end, in bytes.
pub const WINDOW_ALIGN: u64 = 4096;

/// The most vectors of one function. Each takes a descriptor in both processes, and a route in KVM.
pub const VECTORS_MAX: u16 = 64;

/// The protocol between a function's process and the vCPU process.
#[derive(Debug)]
pub enum FunctionLink {}

impl Protocol for FunctionLink {
    const NAME: &'static str = "function-link";
    const ID: u16 = 3;
    const VERSION: u16 = 1;
    type Request = FunctionRequest;
    type Reply = FunctionReply;
    type Event = Never;
}

/// A part of a BAR area that is memory. All numbers are multiples of [`WINDOW_ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWindow {
    /// The BAR area, by the region number of its accesses in the ring.
    pub region: u16,
    /// Its offset in that area.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its offset in the file.
    pub file_offset: u64,
    /// Whether the guest's writes go to the memory too; if not, they go through the ring.
    pub writable: bool,
}

/// A request of the function's process. Append only. Deadline: 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionRequest {
    /// Adds a window, hidden until it is shown. One descriptor: its memory. Refused if it is not safe to map, not
    /// inside the function's areas, overlaps another, or exceeds a limit: its accesses go through the ring then.
    AddWindow(DeviceWindow),
    /// Shows or hides all windows. From the reply on the guest accesses them as memory, or through the ring.
    ShowWindows {
        /// Show, rather than hide.
        shown: bool,
    },
    /// The function has deasserted its INTx pin, without an end of interrupt from the guest. The line is lowered, and
    /// every function on it is notified, and raises it again if it still asserts its pin.
    LowerIntx,
    /// Adds an MSI-X vector, without a route, or puts it in the place of an earlier life's, with the route of that. One
    /// descriptor: the eventfd that its device signals. Refused if KVM cannot listen to it, this life has added it, or
    /// it is beyond [`VECTORS_MAX`]: the function's process then delivers its signals by the MSI board.
    AddVector {
        /// The vector's index in the MSI-X table.
        index: u16,
    },
    /// Routes a vector. From the reply on its signals, also those pending in the eventfd, raise this event of the
    /// function at the ITS; without an event they stay pending in the eventfd. Refused if the host refuses: they stay
    /// pending, and the function's process delivers them.
    RouteVector {
        /// The vector's index in the MSI-X table.
        index: u16,
        /// The EventID, which is the data of its MSI. The DeviceID comes from the configuration.
        event: Option<u32>,
    },
}

/// A reply of the vCPU process. Append only. No descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionReply {
    /// The request was fulfilled.
    Done,
    /// It was not, for this reason.
    Refused(String),
}

impl Message for FunctionRequest {
    fn fd_count(&self) -> u8 {
        match self {
            Self::AddWindow(_) | Self::AddVector { .. } => 1,
            Self::ShowWindows { .. } | Self::LowerIntx | Self::RouteVector { .. } => 0,
        }
    }
}

impl Message for FunctionReply {
    fn fd_count(&self) -> u8 {
        0
    }
}
