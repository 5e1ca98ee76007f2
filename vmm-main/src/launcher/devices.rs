// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is behind assigned devices, opened with the user's rights: images, connections to servers, and devices of the host.
//!
//! Nothing is read from them here. A device that the VM does not have is stood in for by an empty memory file, so that
//! the coordinator's descriptors are the same in every VM.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc::shm::memory_file;
use rustix::fs::{FlockOperation, flock};

use super::host_device::Places;
use crate::config::{Behind, DeviceConfig};
use crate::problem::Problem;
use crate::topology::{self, Object};

/// The objects of each device that a VM can have.
pub fn open_all(devices: &[DeviceConfig]) -> Result<Vec<(Object, OwnedFd)>, Problem> {
    let mut given = devices.iter();
    let mut objects = Vec::new();
    for name in topology::VFIO {
        let (source, iommufd) = match given.next().map(|device| &device.behind) {
            Some(Behind::VfioUser(socket)) => (connect(socket)?, nothing()?),
            Some(Behind::Nvme(image)) => (open_image(image)?.into(), nothing()?),
            Some(Behind::Vfio(address)) => {
                let places = Places::default();
                (places.open_device(address)?.into(), places.open_iommufd()?.into())
            }
            None => (nothing()?, nothing()?),
        };
        objects.extend([(Object::DeviceSource(name), source), (Object::Iommufd(name), iommufd)]);
    }
    Ok(objects)
}

/// The sockets of the devices that have a server of somebody else, by device.
pub fn servers(devices: &[DeviceConfig]) -> Vec<Option<PathBuf>> {
    let server = |device: &DeviceConfig| match &device.behind {
        Behind::VfioUser(socket) => Some(socket.clone()),
        Behind::Nvme(_) | Behind::Vfio(_) => None,
    };
    devices.iter().map(server).collect()
}

/// Connects anew: a server may need a moment to see that its last client is gone, and to listen again.
pub async fn reopen(socket: &Path) -> Option<tokio::net::UnixStream> {
    let until = tokio::time::Instant::now() + REOPEN_PATIENCE;
    loop {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(connection) => return Some(connection),
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(REOPEN_PAUSE).await,
            Err(error) => {
                eprintln!(
                    "bulkhead: the server at {} cannot be reached again after the guest's reset: {error}",
                    socket.display()
                );
                return None;
            }
        }
    }
}

/// How long a server has to take its next client.
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

fn connect(socket: &Path) -> Result<OwnedFd, Problem> {
    UnixStream::connect(socket).map(OwnedFd::from).map_err(|error| {
        Problem::usage(
            format!("the device's vfio-user server cannot be reached: {error}"),
            socket.display().to_string(),
            "start the server first, and check its socket's path",
        )
    })
}

/// Opens an image for this VM alone: two guests that write one file system destroy it.
fn open_image(image: &Path) -> Result<File, Problem> {
    let place = image.display().to_string();
    let refused = |error: io::Error| {
        Problem::usage(
            format!("the image cannot be opened for reading and writing: {error}"),
            place.clone(),
            "give a raw image file",
        )
    };
    let file = OpenOptions::new().read(true).write(true).open(image).map_err(refused)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        Problem::usage(format!("the image is in use: {errno}"), place.clone(), "stop who uses it first")
    })?;
    Ok(file)
}

/// Stands in for what a VM does not have.
pub fn nothing() -> Result<OwnedFd, Problem> {
    memory_file::create("bulkhead-no-device").map_err(|errno| {
        Problem::host(format!("no memory file: {errno}"), "launch", "check this user's limits on memory")
    })
}
