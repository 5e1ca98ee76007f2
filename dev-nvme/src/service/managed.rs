// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process as a part of a VM: started and configured by the coordinator, serving the VM's own device process.
//!
//! The client stops and starts the device, and carries its state, through the vfio-user protocol: so there is nothing here to
//! pause or to save.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{DirtyLogOp, Event, Failure, RoleConfig};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::saved::Writer;
use ipc::service::{self, Process};
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, profiles};

use crate::device::Device;
use crate::service::image::{self, Presented};

/// The coordinator greets at once: it has just started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Whether the coordinator started this process, which then serves: its first argument is a name, not an option.
///
/// # Errors
/// Why it could not be sealed, or what became of the channel.
pub fn serve_if_managed() -> Result<bool> {
    let mut args = std::env::args().skip(1);
    if args.next().is_none_or(|name| name.starts_with('-')) {
        return Ok(false);
    }
    let generation = args.next().and_then(|text| text.parse().ok());
    let generation = generation.context("no generation given: only `bulkhead run` names a process")?;
    let mut fds = Inherited::take_all(args)?;
    let control = fds.take(SlotKind::Control)?;
    let crash_page = CrashPage::from_fd(fds.take(SlotKind::CrashPage)?).context("the crash page")?;
    let (client, image) = (fds.take(SlotKind::VfioUser)?, File::from(fds.take(SlotKind::Image)?));
    let locked = sandbox::seal(&profiles::nvme(), fds.names(), crash_page)?;
    let channel = Channel::from_fd(control, Hello::new(Role::Nvme, generation));
    channel.hello(Role::Coordinator, Deadline::after(HELLO_DEADLINE))?;
    service::tell(&channel, &Event::Sealed(locked.enforced().lines()));
    service::serve(&channel, &mut NvmeProcess { stage: Stage::Unconfigured { client, image } })?;
    Ok(true)
}

enum Stage {
    Unconfigured {
        client: OwnedFd,
        image: File,
    },
    Ready {
        client: OwnedFd,
        device: Arc<Device>,
    },
    Serving,
    /// A step failed halfway: only `Quit` is left.
    Spent,
}

struct NvmeProcess {
    stage: Stage,
}

impl Process for NvmeProcess {
    fn configure(&mut self, config: RoleConfig) -> Result<(), Failure> {
        let fail = |why: &dyn ToString| Failure::new("configure the NVMe controller", why.to_string());
        let RoleConfig::Nvme(config) = config else {
            return Err(fail(&"the configuration is for a process that is no NVMe controller"));
        };
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Unconfigured { client, image } => {
                let presented = Presented {
                    block_len: config.block_len,
                    serial: config.serial,
                    readonly: config.readonly,
                };
                let shown = image::present(image, config.image, &presented).map_err(|error| fail(&error))?;
                let (identity, media) = shown;
                let device = Arc::new(Device::new(identity, media));
                self.stage = Stage::Ready { client, device };
                Ok(())
            }
            other => {
                self.stage = other;
                Err(fail(&"the controller is configured already"))
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        let fail = |why: &dyn ToString| Failure::new("start the NVMe controller", why.to_string());
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Ready { client, device } => {
                super::start_workers(&device).map_err(|error| fail(&error))?;
                let served = Arc::clone(&device);
                let session =
                    thread::Builder::new().name("session".to_owned()).spawn(
                        move || match super::serve_client(&served, client) {
                            Ok(()) => ipc::log::info!("nvme: the device process has closed its connection"),
                            Err(error) => ipc::log::warn!("nvme: no longer served: {error}"),
                        },
                    );
                session.map_err(|error| fail(&error))?;
                self.stage = Stage::Serving;
                Ok(())
            }
            Stage::Serving => {
                self.stage = Stage::Serving;
                Ok(())
            }
            other => {
                self.stage = other;
                Err(fail(&"the controller is not configured"))
            }
        }
    }

    fn pause(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(Writer::new().finish())
    }

    fn restore(&mut self, _stream: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn dirty_log(&mut self, _op: DirtyLogOp) -> Result<(), Failure> {
        // It reaches the guest's memory through the device process only, which logs.
        Ok(())
    }

    fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::new();
        let state = match &self.stage {
            Stage::Unconfigured { .. } => "unconfigured",
            Stage::Ready { .. } => "ready",
            Stage::Serving => "serving",
            Stage::Spent => "spent",
        };
        inspect.text("state", state);
        inspect
    }

    fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure> {
        probe.make(sandbox::by_name::attempt)
    }
}
