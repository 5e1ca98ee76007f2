// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What connects two processes, as data: which objects an edge is made of, how long they live, and which end each side
//! holds.
//!
//! An edge belongs to the instance whose template declares it (`roles.rs`): the *owner*. At its other end is the
//! *peer*. An object has a descriptor at each end, or at one only where the other side makes its own while it runs.

use ipc::instance::InstanceId;
pub use ipc::slot::IrqLine;
use ipc::slot::SlotKind;

/// How long an object lives. New ones are made when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It is the host's, and there before the VM and after it: files, devices, programs.
    Host,
    /// As long as the launcher and the coordinator.
    Vm,
    /// From the guest's boot to its reset, whatever becomes of processes meanwhile.
    Boot,
    /// As long as the processes at its ends: a restored guest's have new ones.
    Process,
}

/// What becomes of an edge's objects when the process at one end is started anew under a running guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The next life has the same ones, or makes its own: nobody else notices.
    Kept,
    /// They are made anew, and the process at the other end is sent its own.
    Rewired,
    /// They are made anew, and so is the life of the process at the other end, if it is one of the VM's: what is
    /// somebody else's is kept, and goes on with the next life.
    Together,
    /// The process at the other end has no way to go on with another life.
    Impossible,
}

/// What a process does with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Reads or receives only.
    Read,
    /// Writes or signals only.
    Write,
    /// Both.
    ReadWrite,
    /// Executes, once, to start the process.
    Execute,
    /// Hands it on, to a process or to the kernel, and looks at nothing in it.
    HandOn,
}

/// How an object comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Whoever starts the process makes it then: its channel, its log, its crash page.
    AtStart,
    /// The launcher opens or makes it, and hands it over.
    Given,
    /// Guest RAM: one memory object of the VM.
    Ram,
    /// A dirty log, of guest RAM's layout.
    DirtyLog,
    /// An MMIO ring.
    Ring,
    /// Registers that the guest reads without an exit.
    RegisterPage,
    /// A board of pending MSIs.
    MsiBoard,
    /// What a process's next life starts from if it dies.
    Checkpoint,
    /// The owed map that a coordinator shares with its mover.
    OwedMap,
    /// A doorbell: whoever may write it rings, whoever may read it looks.
    Doorbell,
    /// A channel of messages between two processes.
    Channel,
    /// A stream socket pair between two processes.
    Stream,
}

/// What two processes have between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// Orders, answers and events: the channel to whoever started the process.
    Control,
    /// Where the process records why it died.
    CrashPage,
    /// Where its log lines go.
    Log,
    /// The configuration.
    Handover,
    /// The guest's kernel.
    Kernel,
    /// The guest's initramfs.
    Initramfs,
    /// The program that the process runs.
    Program,
    /// The guest's serial line.
    Console,
    /// `/dev/kvm`, opened.
    Kvm,
    /// The image of a disk.
    Image,
    /// The file of a physical device.
    PhysicalDevice,
    /// An iommufd context of the process's own.
    Iommufd,
    /// Guest RAM, mapped.
    Ram,
    /// Guest RAM, given to the host's IOMMU and never mapped.
    PinnedRam,
    /// Guest RAM, read and written as a file and never mapped.
    CarriedRam,
    /// The pages that the other host of a migration has not got.
    OwedMap,
    /// The pages that the process has written.
    DirtyLog,
    /// What the next life of the process finds if it dies.
    Checkpoint,
    /// The guest's accesses to the device.
    Ring,
    /// Registers that the guest reads without an exit.
    RegisterPage,
    /// A wired interrupt.
    Irq(IrqLine),
    /// Orders of the guest's SMMU about a device's DMA, and faults.
    Stage1,
    /// The vfio-user connection of a device to its server.
    VfioUser,
    /// A function's MSIs: the board where they stand, and the doorbell that says to look.
    Vectors,
    /// What of a function's BARs is memory, and what its vectors mean.
    FunctionLink,
    /// A function's INTx pin: asserted, and the end of the interrupt.
    Pin,
}

/// One end of an object: under which name a process holds it, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// What kind of descriptor it is.
    pub slot: SlotKind,
    /// Whether a process may hold several of the kind, so that the name says whose.
    pub is_named: bool,
    /// What the process does with it.
    pub rights: Rights,
}

/// One object of an edge.
#[derive(Debug, Clone, Copy)]
pub struct ObjectSpec {
    /// The owner's end, if it is given one at its start.
    pub owner: Option<End>,
    /// The peer's end, if it is given one at its start.
    pub peer: Option<End>,
    /// How it comes to be.
    pub make: Make,
}

/// What an edge of one kind is made of.
#[derive(Debug, Clone, Copy)]
pub struct EdgeSpec {
    /// Its name, in table and map.
    pub name: &'static str,
    /// How long its objects live.
    pub life: Life,
    /// What is made for each edge of this kind.
    pub objects: &'static [ObjectSpec],
    /// Whether all edges of this kind are about one and the same object, the coordinator's.
    pub is_shared: bool,
}

/// One object of a VM: the objects of the edges with this kind and this owner, in the order of [`EdgeSpec::objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The edge that it is of.
    pub kind: EdgeKind,
    /// To whom the edge belongs.
    pub owner: InstanceId,
    /// Which of the edge's objects it is.
    pub index: u8,
}

impl ObjectId {
    /// The end of it that `side` is given at its start, if it is given one.
    pub fn end(self, side: Side) -> Option<End> {
        let spec = self.kind.spec().objects.get(usize::from(self.index))?;
        match side {
            Side::Owner => spec.owner,
            Side::Peer => spec.peer,
        }
    }
}

impl Make {
    /// What memory of this kind is called in `/proc`, in the VM of this name.
    pub fn memory_name(self, vm: &str, owner: InstanceId) -> String {
        match self {
            Self::Ram => format!("{vm}-guest-ram"),
            Self::DirtyLog => format!("{vm}-dirty-log-{owner}"),
            Self::Ring => format!("{vm}-ring-{owner}"),
            Self::RegisterPage => format!("{vm}-registers-{owner}"),
            Self::MsiBoard => format!("{vm}-msi-board-{owner}"),
            Self::Checkpoint => format!("{vm}-checkpoint-{owner}"),
            Self::OwedMap => format!("{vm}-owed-map"),
            Self::AtStart | Self::Given | Self::Doorbell | Self::Channel | Self::Stream => String::new(),
        }
    }
}

/// Which end of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The owner's.
    Owner,
    /// The peer's.
    Peer,
}

const fn only(slot: SlotKind, rights: Rights) -> Option<End> {
    Some(End { slot, is_named: false, rights })
}

/// An object of a device, at the process that has many devices.
const fn between(make: Make, slot: SlotKind, owner: Rights, peer: Rights) -> ObjectSpec {
    let peer = Some(End { slot, is_named: true, rights: peer });
    ObjectSpec { make, owner: only(slot, owner), peer }
}

/// An object that only its owner is given at its start.
const fn of_owner(make: Make, slot: SlotKind, rights: Rights) -> ObjectSpec {
    ObjectSpec { make, owner: only(slot, rights), peer: None }
}

const fn spec(name: &'static str, life: Life, objects: &'static [ObjectSpec]) -> EdgeSpec {
    EdgeSpec { name, life, objects, is_shared: false }
}

const fn irq(name: &'static str, objects: &'static [ObjectSpec]) -> EdgeSpec {
    spec(name, Life::Boot, objects)
}

impl EdgeKind {
    /// What it is made of.
    pub const fn spec(self) -> EdgeSpec {
        use Rights::{HandOn, Read, ReadWrite, Write};
        match self {
            Self::Control => spec(
                "control",
                Life::Process,
                &const { [of_owner(Make::AtStart, SlotKind::Control, ReadWrite)] },
            ),
            Self::CrashPage => spec(
                "crash page",
                Life::Process,
                &const { [of_owner(Make::AtStart, SlotKind::CrashPage, Write)] },
            ),
            Self::Log => {
                spec("log", Life::Process, &const { [of_owner(Make::AtStart, SlotKind::Log, Write)] })
            }
            Self::Handover => {
                spec("configuration", Life::Vm, &const { [of_owner(Make::Given, SlotKind::Handover, Read)] })
            }
            Self::Kernel => {
                spec("kernel", Life::Host, &const { [of_owner(Make::Given, SlotKind::Kernel, Read)] })
            }
            Self::Initramfs => {
                spec("initramfs", Life::Host, &const { [of_owner(Make::Given, SlotKind::Initramfs, Read)] })
            }
            // Who starts the process executes it: the process itself is not given it.
            Self::Program => spec(
                "program",
                Life::Host,
                &const { [ObjectSpec { make: Make::Given, owner: None, peer: None }] },
            ),
            Self::Console => {
                spec("console", Life::Vm, &const { [of_owner(Make::Given, SlotKind::Console, ReadWrite)] })
            }
            Self::Kvm => {
                spec("kvm", Life::Host, &const { [of_owner(Make::Given, SlotKind::Kvm, ReadWrite)] })
            }
            Self::Image => {
                spec("image", Life::Host, &const { [of_owner(Make::Given, SlotKind::Image, ReadWrite)] })
            }
            Self::PhysicalDevice => spec(
                "physical device",
                Life::Host,
                &const { [of_owner(Make::Given, SlotKind::VfioDevice, ReadWrite)] },
            ),
            Self::Iommufd => {
                spec("iommufd", Life::Host, &const { [of_owner(Make::Given, SlotKind::Iommufd, ReadWrite)] })
            }
            Self::Ram => EdgeSpec {
                is_shared: true,
                ..spec("guest RAM", Life::Boot, &const { [of_owner(Make::Ram, SlotKind::Ram, ReadWrite)] })
            },
            Self::PinnedRam => EdgeSpec {
                is_shared: true,
                ..spec("pinned RAM", Life::Boot, &const { [of_owner(Make::Ram, SlotKind::Ram, HandOn)] })
            },
            Self::CarriedRam => EdgeSpec {
                is_shared: true,
                ..spec("carried RAM", Life::Boot, &const { [of_owner(Make::Ram, SlotKind::Ram, ReadWrite)] })
            },
            // What a mover has not sent is nothing to the next one, whose destination begins with nothing.
            Self::OwedMap => spec(
                "owed map",
                Life::Process,
                &const { [of_owner(Make::OwedMap, SlotKind::OwedMap, ReadWrite)] },
            ),
            Self::DirtyLog => spec(
                "dirty log",
                Life::Boot,
                &const { [of_owner(Make::DirtyLog, SlotKind::DirtyLog, Write)] },
            ),
            // Written by one life and read by the next.
            Self::Checkpoint => spec(
                "checkpoint",
                Life::Boot,
                &const { [of_owner(Make::Checkpoint, SlotKind::Checkpoint, ReadWrite)] },
            ),
            Self::Ring => spec(
                "ring",
                Life::Process,
                &const { [between(Make::Ring, SlotKind::Ring, ReadWrite, ReadWrite)] },
            ),
            // The guest's own registers are stored here by the vCPU, all others by the device.
            Self::RegisterPage => spec(
                "register page",
                Life::Process,
                &const { [between(Make::RegisterPage, SlotKind::RegisterPage, ReadWrite, ReadWrite)] },
            ),
            Self::Irq(IrqLine::EventQueue) => irq(
                "event queue irq",
                &const { [between(Make::Doorbell, SlotKind::Irq(IrqLine::EventQueue), Write, Read)] },
            ),
            Self::Irq(IrqLine::GlobalError) => irq(
                "global error irq",
                &const { [between(Make::Doorbell, SlotKind::Irq(IrqLine::GlobalError), Write, Read)] },
            ),
            Self::Irq(IrqLine::CommandSync) => irq(
                "command sync irq",
                &const { [between(Make::Doorbell, SlotKind::Irq(IrqLine::CommandSync), Write, Read)] },
            ),
            Self::Stage1 => spec(
                "stage 1",
                Life::Process,
                &const { [between(Make::Channel, SlotKind::Stage1, ReadWrite, ReadWrite)] },
            ),
            Self::VfioUser => spec(
                "vfio-user",
                Life::Process,
                &const {
                    [ObjectSpec {
                        make: Make::Stream,
                        owner: only(SlotKind::VfioUser, ReadWrite),
                        peer: only(SlotKind::VfioUser, ReadWrite),
                    }]
                },
            ),
            Self::Vectors => spec(
                "vectors",
                Life::Boot,
                &const {
                    [
                        between(Make::MsiBoard, SlotKind::MsiBoard, Write, ReadWrite),
                        between(Make::Doorbell, SlotKind::MsiDoorbell, Write, Read),
                    ]
                },
            ),
            Self::FunctionLink => spec(
                "function link",
                Life::Process,
                &const { [between(Make::Channel, SlotKind::FunctionLink, ReadWrite, ReadWrite)] },
            ),
            Self::Pin => spec(
                "pin",
                Life::Boot,
                &const {
                    [
                        between(Make::Doorbell, SlotKind::Intx, Write, Read),
                        between(Make::Doorbell, SlotKind::IntxEnd, Read, Write),
                    ]
                },
            ),
        }
    }

    /// What becomes of it when the process on this side is started anew under a running guest.
    pub const fn renewal(self, side: Side) -> Renewal {
        match (self, side) {
            // Who starts a process makes these, or hands them on again.
            (
                Self::Control
                | Self::CrashPage
                | Self::Log
                | Self::Handover
                | Self::Kernel
                | Self::Initramfs
                | Self::Program
                | Self::Image
                // The coordinator holds them too: what the host does for the device goes on.
                | Self::PhysicalDevice
                | Self::Iommufd
                | Self::Ram
                | Self::PinnedRam
                | Self::CarriedRam
                | Self::DirtyLog
                | Self::Checkpoint,
                _,
            ) => Renewal::Kept,
            // Memory and doorbells: who answers a ring finds in it how far it is.
            (Self::Ring | Self::RegisterPage | Self::Irq(_) | Self::Vectors | Self::Pin, Side::Owner) => {
                Renewal::Kept
            }
            // A device is attached anew, as its guest's tables say, whichever of the two is started anew.
            (Self::Stage1, _)
            // What a function shows, its next life shows anew.
            | (Self::FunctionLink, Side::Owner) => Renewal::Rewired,
            // A connection is a session: its client and its server remember the same one.
            (Self::VfioUser, _) => Renewal::Together,
            // How far whoever asks is stands in that process alone.
            (Self::Ring | Self::RegisterPage | Self::Irq(_) | Self::Vectors | Self::Pin, Side::Peer)
            // A migration ends with its mover.
            | (Self::OwedMap, _)
            // The guest's CPUs.
            | (Self::FunctionLink, Side::Peer)
            | (Self::Console | Self::Kvm, _) => Renewal::Impossible,
        }
    }

    /// Whether every process has such an edge to whoever started it: left out of the map, which would show nothing
    /// else.
    pub const fn is_common(self) -> bool {
        matches!(self, Self::Control | Self::CrashPage | Self::Log | Self::Program)
    }
}
