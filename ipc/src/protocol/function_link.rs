// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The function link: what the process of a PCI function asks of the process that has the guest's address space.
//!
//! One channel per function, so that nobody asks for another's. The function's accesses go through its ring; what goes
//! here is rare: which parts of its BARs are memory that the guest may reach without asking, and when; which eventfds
//! its vectors signal, and what they mean now. All requests are idempotent but [`FunctionRequest::AddWindow`] and
//! [`FunctionRequest::AddVector`]. If the vCPU process dies the VM ends; if the function's process dies its windows are
//! hidden, its vectors stay as they are, and its accesses read as all ones.
//!
//! A window is memory of the *device's server*, which nobody here trusts: whoever maps it must be sure that no touch of
//! it can fault ([`crate::shm::device_memory`] has the rules). Or it is a part of a BAR of the physical device, which
//! only the guest touches ([`crate::shm::host_bar`]).

use serde::{Deserialize, Serialize};

use crate::protocol::stage1::Never;
use crate::protocol::{Message, Protocol};

/// The most windows of one function. Each keeps a descriptor and, with KVM, a memory slot.
pub const WINDOWS_MAX: usize = 8;

/// The most bytes in all windows of one function that are a server's. Their pages are memory that the server may leave
/// to whoever touches them first, so a guest could make the vCPU process pay for them.
pub const WINDOWS_LEN_MAX: u64 = 1 << 30;

/// What a window begins and ends at.
pub const WINDOW_ALIGN: u64 = 4096;

/// The most vectors of one function. Each keeps a descriptor here and there, and a route at the host's interrupt
/// controller.
pub const VECTORS_MAX: u16 = 64;

/// The interface's name as a type.
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

/// A part of a function's address area that is memory. All numbers are multiples of [`WINDOW_ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWindow {
    /// Which of the function's areas: the number that its requests in the ring carry.
    pub region: u16,
    /// Where it begins in that area.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
    /// Where its bytes begin in the file.
    pub file_offset: u64,
    /// Whether the guest's writes go there too; if not they go through the ring.
    pub writable: bool,
}

/// What the function's process asks. Append only. Deadline: 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionRequest {
    /// There is such a window; one fd, its memory. It is hidden until it is shown. Refused if it is not safe to map,
    /// not inside the function's areas, overlaps another, or is one too many: then its accesses go through the ring.
    AddWindow(DeviceWindow),
    /// From the answer on the guest reaches all windows, or none and their accesses go through the ring.
    ShowWindows {
        /// Whether it does.
        shown: bool,
    },
    /// The function's INTx pin is not asserted any more, without the guest having ended the interrupt. Its line falls;
    /// every function on that line is told so, and raises it again if it still asserts its pin.
    LowerIntx,
    /// There is such a vector of the function's MSI-X; one fd, the eventfd that its device signals. It is routed
    /// nowhere. Refused if the guest's CPUs cannot listen to it, there is one of that number, or it is beyond
    /// [`VECTORS_MAX`]: then its signals are for the function's process to bring.
    AddVector {
        /// Which one.
        index: u16,
    },
    /// From the answer on a signal of the vector is this event of the function's at the interrupt controller, with what
    /// has been signalled and not brought yet; or, without one, waits in the eventfd. Refused if the host refuses: then
    /// it waits there, for the function's process to bring.
    RouteVector {
        /// Which one.
        index: u16,
        /// The data of its message: an EventID of the ITS. The device's number is not for the function to say.
        event: Option<u32>,
    },
}

/// What the vCPU process answers. Append only. No fds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FunctionReply {
    /// It is so.
    Done,
    /// It is not, for this reason.
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
