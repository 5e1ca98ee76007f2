// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The names of the descriptors that a process is given at exec.
//!
//! A descriptor's name is its kind and, where there can be several, the process at the other end (`ring:vfio0` in the
//! vCPU process; the device's own end is just `ring`). The parent passes the names with the descriptors, in the order
//! of their numbers, and the child takes each by its name, as with systemd's `LISTEN_FDNAMES`: no code has a number.
//! The texts are in argument lists and in profiles.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::instance::InstanceId;

/// The kind of a descriptor; its text is the name where a process has only one of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlotKind {
    /// The channel to the parent.
    Control,
    /// The crash page, where it records why it died.
    CrashPage,
    /// The pipe for log lines: standard error.
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
    /// The page of registers that the guest reads without an exit.
    RegisterPage,
    /// A wired interrupt: a doorbell.
    Irq(IrqLine),
    /// A stage 1 channel.
    Stage1,
    /// The channel between a function's process and the vCPU process.
    FunctionLink,
    /// A board of pending MSIs.
    MsiBoard,
    /// The doorbell of an MSI board.
    MsiDoorbell,
    /// The doorbell of a function's INTx pin: it is asserted.
    Intx,
    /// The doorbell that notifies the end of that interrupt.
    IntxEnd,
    /// A vfio-user connection.
    VfioUser,
    /// The character device of a physical device.
    VfioDevice,
    /// An iommufd, for one device alone.
    Iommufd,
    /// The image of a disk.
    Image,
    /// What the process finds again after a crash of its own.
    Checkpoint,
    /// The pages that the other host of a migration has not got.
    OwedMap,
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

/// A text that is not the name of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a descriptor; they are like `ram` or `ring:vfio0`")]
pub struct UnknownSlot(String);

impl SlotKind {
    /// Every kind.
    pub const ALL: [Self; 27] = [
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
        Self::Checkpoint,
        Self::OwedMap,
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
            Self::Checkpoint => "checkpoint",
            Self::OwedMap => "owed-map",
        }
    }
}

impl Slot {
    /// The prefix of a program's name.
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

/// Whether `name` is a file name without a folder, of printable characters.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
