// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sealed half of the program when it is used without a VM: its arguments and descriptors, sealing, and serving.
//!
//! Arguments: [`SEALED`], [`LaunchArgs`], and the names of its descriptors.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, Locked, profiles};

use crate::device::Device;
use crate::service::image::{self, Presented};
use crate::service::{self, ServiceError, Socket};

/// First argument of the sealed process.
const SEALED: &str = "--sealed";

/// Its listening socket's name.
pub const LISTENER: &str = "listener";
/// The name of its standard input, which is empty.
pub const NOTHING: &str = "nothing";

/// Exit code if a client blocks it: the launcher starts a new process.
pub const REPLACE_ME: u8 = 75;

/// The arguments from the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchArgs {
    /// How the controller presents the image.
    pub presented: Presented,
    /// The image's name, for the log.
    pub image_name: String,
}

impl LaunchArgs {
    /// The arguments behind the program's name.
    ///
    /// # Errors
    /// If a text contains a NUL.
    pub fn to_args(&self) -> Result<Vec<CString>, NulError> {
        let Presented { block_len, serial, readonly } = &self.presented;
        let words = [
            SEALED.to_owned(),
            block_len.to_string(),
            readonly.to_string(),
            serial.clone().unwrap_or_default(),
            self.image_name.clone(),
        ];
        words.into_iter().map(CString::new).collect()
    }

    /// Reads them back; `None` if this is no sealed process.
    ///
    /// # Errors
    /// If one is missing.
    pub fn from_args(args: &mut impl Iterator<Item = String>) -> Result<Option<Self>> {
        if args.next().as_deref() != Some(SEALED) {
            return Ok(None);
        }
        let mut next = || args.next().context("an argument of the launcher is missing");
        let block_len = next()?.parse().context("the block size")?;
        let readonly = next()?.parse().context("whether the image is to be written")?;
        let serial = Some(next()?).filter(|serial| !serial.is_empty());
        let presented = Presented { block_len, serial, readonly };
        Ok(Some(Self { presented, image_name: next()? }))
    }
}

/// Whether this is the sealed process, which then serves until its end.
///
/// # Errors
/// Why it could not be sealed, or cannot go on.
pub fn serve_if_sealed() -> Result<Option<ExitCode>> {
    // An argument that is no text is for the command line to refuse.
    let mut args = std::env::args_os().skip(1).map(|arg| arg.into_string().unwrap_or_default());
    let Some(launch) = LaunchArgs::from_args(&mut args)? else { return Ok(None) };
    let mut fds = Inherited::take_all(args)?;
    let crash_page = CrashPage::from_fd(fds.take(SlotKind::CrashPage)?).context("the crash page")?;
    let (socket, image) = (fds.take(LISTENER)?, File::from(fds.take(SlotKind::Image)?));
    let locked = sandbox::seal(&profiles::nvme_standalone(), fds.names(), crash_page)?;
    match serve(&locked, launch, socket, image) {
        Ok(()) => Ok(Some(ExitCode::SUCCESS)),
        Err(error) if matches!(error.downcast_ref(), Some(ServiceError::Stuck)) => {
            ipc::log::error!("nvme: {error}");
            Ok(Some(ExitCode::from(REPLACE_ME)))
        }
        Err(error) => Err(error),
    }
}

fn serve(locked: &Locked, launch: LaunchArgs, socket: OwnedFd, image: File) -> Result<()> {
    let (identity, media) = image::present(image, launch.image_name, &launch.presented)?;
    let device = Arc::new(Device::new(identity, media));
    for line in locked.enforced().lines() {
        ipc::log::info!("nvme: sealed: {line}");
    }
    service::serve(locked, &device, Socket::Listening(socket))?;
    Ok(())
}
