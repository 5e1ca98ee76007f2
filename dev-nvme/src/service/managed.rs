// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process as a part of a VM: started and configured by the coordinator, serving the VM's own device process.
//!
//! The client stops, resumes, saves and restores the device through the vfio-user protocol, so the control requests
//! for that do nothing here.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Event, Exactness, Failure, Quiescence, RoleConfig, StreamReplay,
};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::nvme::NvmeConfig;
use ipc::saved::Writer;
use ipc::shm::checkpoint::CHECKPOINT_LEN;
use ipc::shm::region::Region;
use ipc::slot::SlotKind;
use process::{Configured, Context, Program, Source, StartError};
use sandbox::{Inherited, InheritedError, profiles};

use crate::device::Device;
use crate::journal::Journal;
use crate::pci::config::{DEVICE_ID, VENDOR_ID};
use crate::pci::{BAR0_LEN, VECTORS};
use crate::saved::NvmeV2;
use crate::service::image::{self, Presented};

/// Whether the coordinator started this process, which then serves: its first argument is a name, not an option.
///
/// # Errors
/// If it could not be sealed, or the channel failed.
pub fn serve_if_managed() -> Result<bool, StartError> {
    let first = std::env::args_os().nth(1);
    if first.is_none_or(|name| name.as_encoded_bytes().starts_with(b"-")) {
        return Ok(false);
    }
    process::run::<NvmeProgram>(&profiles::nvme(), Given::take)?;
    Ok(true)
}

/// The descriptors inherited at exec, besides channel, crash page and log.
pub struct Given {
    client: OwnedFd,
    image: File,
    /// What its next life finds if it dies, and what it finds of the one before.
    checkpoint: OwnedFd,
}

impl Given {
    /// Takes them by their names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited) -> Result<Self, InheritedError> {
        Ok(Self {
            client: fds.take(SlotKind::VfioUser)?,
            image: File::from(fds.take(SlotKind::Image)?),
            checkpoint: fds.take(SlotKind::Checkpoint)?,
        })
    }
}

/// What it is, and who it is for.
pub struct Ready {
    client: OwnedFd,
    device: Arc<Device>,
    journal: Journal,
}

/// The same with its state.
pub struct Loaded {
    client: OwnedFd,
    device: Arc<Device>,
    /// The life before has died: this one is its author from `arm` on.
    is_revived: bool,
}

/// The controller was started; its threads have it too.
pub struct Serving {
    device: Arc<Device>,
}

/// The program of an NVMe controller.
pub struct NvmeProgram;

/// What a guest can tell of it, but for its disk's contents; and the version of its state, which the client moves.
fn features(block_len: u32) -> Vec<Feature> {
    vec![
        Feature::new("vendor and device ID", format_args!("{VENDOR_ID:04x}:{DEVICE_ID:04x}")),
        Feature::new("BAR 0", format_args!("{BAR0_LEN:#x} bytes")),
        Feature::new("MSI-X vectors", VECTORS),
        Feature::new("block size", format_args!("{block_len} bytes")),
        Feature::state::<NvmeV2>(),
    ]
}

impl Program for NvmeProgram {
    const ROLE: Role = Role::Nvme;
    const WHAT: &'static str = "the NVMe controller";
    type Given = Given;
    type Config = NvmeConfig;
    type Ready = Ready;
    type Loaded = Loaded;
    type Armed = Serving;

    fn accept(config: RoleConfig) -> Result<NvmeConfig, Failure> {
        let RoleConfig::Nvme(config) = config else {
            let why = "the configuration is for a process that is no NVMe controller";
            return Err(Failure::new("configure the NVMe controller", why));
        };
        Ok(config)
    }

    fn configure(config: NvmeConfig, given: Given, context: &Context) -> Result<Ready, Failure> {
        let NvmeConfig { id: _, serial, block_len, readonly, image } = config;
        context.events.tell(Event::Features(features(block_len)));
        let presented = Presented { block_len, serial, readonly };
        let (identity, media) = image::present(given.image, image, &presented)
            .map_err(|error| Failure::new("configure the NVMe controller", error))?;
        let journal = Region::from_fd(given.checkpoint, CHECKPOINT_LEN)
            .and_then(|region| Journal::attach(&region))
            .map_err(|error| Failure::new("map the controller's checkpoint", error))?;
        Ok(Ready { client: given.client, device: Arc::new(Device::new(identity, media)), journal })
    }

    /// The client moves the device's state, but for that of a life that has died.
    fn load(ready: Ready, source: Source, _context: &Context) -> Result<Loaded, Failure> {
        let Ready { client, device, journal } = ready;
        let is_revived = matches!(source, Source::Checkpoint | Source::Failed);
        match source {
            Source::Checkpoint => {
                device.revive(journal).map_err(|error| Failure::new("revive the NVMe controller", error))?;
            }
            Source::Failed => device.fail_in(journal),
            Source::Reset | Source::Units(_) => device.keep_in(journal),
        }
        Ok(Loaded { client, device, is_revived })
    }

    fn arm(loaded: Loaded, _context: &Context) -> Result<Serving, Failure> {
        let Loaded { client, device, is_revived } = loaded;
        if is_revived {
            // The guest runs, and reaches it before `go`.
            device.begin();
        }
        let serving = Serving { device: Arc::clone(&device) };
        let fail = |error: &dyn ToString| Failure::new("start the NVMe controller", error.to_string());
        super::start_workers(&device).map_err(|error| fail(&error))?;
        let session = move || match super::serve_client(&device, client) {
            Ok(()) => ipc::log::info!("nvme: the device process has closed its connection"),
            Err(error) => ipc::log::warn!("nvme: no longer served: {error}"),
        };
        thread::Builder::new().name("session".to_owned()).spawn(session).map_err(|error| fail(&error))?;
        Ok(serving)
    }

    fn replay(_armed: &Serving) -> Result<Option<Vec<StreamReplay>>, Failure> {
        Ok(None)
    }

    /// The client resumes the device.
    fn go(armed: &Serving, _context: &Context) {
        armed.device.begin();
    }

    fn pause(_armed: &Serving) -> Result<(), Failure> {
        Ok(())
    }

    fn resume(_armed: &Serving) -> Result<(), Failure> {
        Ok(())
    }

    fn in_flight(_armed: &Serving) -> Quiescence {
        Quiescence::NONE
    }

    fn check_save(_armed: &Serving) -> Result<(), Failure> {
        Ok(())
    }

    fn save(_armed: &Serving, into: &mut dyn Write) -> Result<(), Failure> {
        into.write_all(&Writer::new().finish()).map_err(|error| Failure::new("write an empty state", error))
    }

    fn dirty_log(_configured: Configured<'_, Self>, _op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        // It writes guest memory through the device's process only, which logs.
        Ok(DirtyLogState { epoch: 0, exact: Exactness::Exact })
    }

    fn dma_ended(_configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        process::no_device_behind(device)
    }

    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        let state = match configured {
            Configured::Ready(_) | Configured::Loaded(_) => "ready",
            Configured::Armed(_) => "serving",
        };
        inspect.text("state", state);
    }
}
