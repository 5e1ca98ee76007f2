// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The names of what a process is given at exec.
//!
//! A descriptor has a name in the process that holds it: what kind of thing it is and, where there can be several,
//! which other process it connects to (`ring:vfio0` in the vCPU process; the device's own end is just `ring`). The
//! parent gives the names with the descriptors, in the order of their numbers, and the child takes each by its name, as
//! systemd's `LISTEN_FDNAMES` has it: nobody else writes a number. The texts are in argument lists and in profiles.
//! Callers: who starts processes, and every program at its start.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::instance::InstanceId;

/// What kind of thing a descriptor is. The text of a kind is the name where a process has one of it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlotKind {
    /// The channel to whoever started the process.
    Control,
    /// Where it records why it died.
    CrashPage,
    /// Where its log lines go.
    Log,
    /// The configuration, from launcher to coordinator.
    Handover,
    /// The guest's kernel.
    Kernel,
    /// The guest's initramfs.
    Initramfs,
    /// The guest's serial line: the process's end of a stream socket pair.
    Console,
    /// The host's KVM: `/dev/kvm`, opened.
    Kvm,
    /// The guest's memory.
    Ram,
    /// The dirty log of the process.
    DirtyLog,
    /// An MMIO ring.
    Ring,
    /// A register page.
    RegisterPage,
    /// A wired interrupt: a doorbell.
    Irq(IrqLine),
    /// A stage 1 channel.
    Stage1,
    /// A function link: the channel on which a device tells what of its BARs is memory, and of its vectors.
    FunctionLink,
    /// A board of pending MSIs.
    MsiBoard,
    /// The doorbell that says to look at it.
    MsiDoorbell,
    /// The doorbell of a function's INTx pin: it is asserted.
    Intx,
    /// The doorbell that says that the guest has ended that interrupt.
    IntxEnd,
    /// A vfio-user connection.
    VfioUser,
    /// The character device of a physical device.
    VfioDevice,
    /// An iommufd, for one device alone.
    Iommufd,
    /// The image of a disk.
    Image,
}

/// The wires of an SMMUv3 (IHI 0070 section 3.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IrqLine {
    /// The event queue has something.
    EventQueue,
    /// `SMMU_GERROR` has changed.
    GlobalError,
    /// A CMD_SYNC has completed.
    CommandSync,
}

/// The name of one descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The only one of its kind.
    Only(SlotKind),
    /// The one of its kind that is shared with, or held for, another process.
    Of(SlotKind, InstanceId),
    /// A program that the process may start, by its file's name.
    Program(String),
}

/// A text that names no descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a descriptor; they are like `ram` or `ring:vfio0`")]
pub struct UnknownSlot(String);

impl SlotKind {
    /// Every kind.
    pub const ALL: [Self; 25] = [
        Self::Control,
        Self::CrashPage,
        Self::Log,
        Self::Handover,
        Self::Kernel,
        Self::Initramfs,
        Self::Console,
        Self::Kvm,
        Self::Ram,
        Self::DirtyLog,
        Self::Ring,
        Self::RegisterPage,
        Self::Irq(IrqLine::EventQueue),
        Self::Irq(IrqLine::GlobalError),
        Self::Irq(IrqLine::CommandSync),
        Self::Stage1,
        Self::FunctionLink,
        Self::MsiBoard,
        Self::MsiDoorbell,
        Self::Intx,
        Self::IntxEnd,
        Self::VfioUser,
        Self::VfioDevice,
        Self::Iommufd,
        Self::Image,
    ];

    /// The one that is shared with, or held for, `peer`.
    #[must_use]
    pub const fn of(self, peer: InstanceId) -> Slot {
        Slot::Of(self, peer)
    }

    /// Its text: lower-case letters, digits and `-`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::CrashPage => "crash-page",
            Self::Log => "log",
            Self::Handover => "handover",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Console => "console",
            Self::Kvm => "kvm",
            Self::Ram => "ram",
            Self::DirtyLog => "dirty-log",
            Self::Ring => "ring",
            Self::RegisterPage => "register-page",
            Self::Irq(IrqLine::EventQueue) => "irq-event-queue",
            Self::Irq(IrqLine::GlobalError) => "irq-global-error",
            Self::Irq(IrqLine::CommandSync) => "irq-command-sync",
            Self::Stage1 => "stage1",
            Self::FunctionLink => "function-link",
            Self::MsiBoard => "msi-board",
            Self::MsiDoorbell => "msi-doorbell",
            Self::Intx => "intx",
            Self::IntxEnd => "intx-end",
            Self::VfioUser => "vfio-user",
            Self::VfioDevice => "vfio-device",
            Self::Iommufd => "iommufd",
            Self::Image => "image",
        }
    }
}

impl Slot {
    /// What stands before the name of a program.
    pub const PROGRAM: &'static str = "program";
}

impl From<SlotKind> for Slot {
    fn from(kind: SlotKind) -> Self {
        Self::Only(kind)
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(kind) => kind.fmt(f),
            Self::Of(kind, peer) => write!(f, "{kind}:{peer}"),
            Self::Program(name) => write!(f, "{}:{name}", Self::PROGRAM),
        }
    }
}

impl FromStr for Slot {
    type Err = UnknownSlot;

    fn from_str(text: &str) -> Result<Self, UnknownSlot> {
        let kind = |text: &str| SlotKind::ALL.into_iter().find(|kind| kind.as_str() == text);
        let slot = match text.split_once(':') {
            None => kind(text).map(Self::Only),
            Some((Self::PROGRAM, name)) => is_file_name(name).then(|| Self::Program(name.to_owned())),
            Some((before, peer)) => {
                kind(before).zip(peer.parse().ok()).map(|(kind, peer)| Self::Of(kind, peer))
            }
        };
        slot.ok_or_else(|| UnknownSlot(text.chars().take(64).collect()))
    }
}

/// Whether `name` is a file's alone, in no folder, and one that prints as it is.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
