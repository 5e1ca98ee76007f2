// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is behind assigned devices, opened with the user's rights: images, connections to servers, and devices of the host.
//!
//! Nothing is read from them here. A device that the VM does not have is stood in for by an empty memory file, so that
//! the coordinator's descriptors are the same in every VM.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc::shm::memory_file;

use super::host_device::Places;
use super::image;
use crate::config::{Behind, DeviceConfig};
use crate::printable;
use crate::problem::Problem;
use crate::topology::{self, Object};

/// The objects of each device that a VM can have.
pub fn open_all(devices: &[DeviceConfig]) -> Result<Vec<(Object, OwnedFd)>, Problem> {
    let mut given = devices.iter();
    let mut objects = Vec::new();
    for name in topology::VFIO {
        let (source, iommufd) = match given.next().map(|device| &device.behind) {
            Some(Behind::VfioUser(socket)) => (connect(socket)?, nothing()?),
            Some(Behind::Nvme(disk)) => (image::open(&disk.image, disk.readonly)?.into(), nothing()?),
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
pub async fn reopen(socket: &Path) -> std::io::Result<tokio::net::UnixStream> {
    let until = tokio::time::Instant::now() + REOPEN_PATIENCE;
    loop {
        match tokio::net::UnixStream::connect(socket).await {
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(REOPEN_PAUSE).await,
            connected => return connected,
        }
    }
}

/// How long a server has to take its next client.
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

fn connect(socket: &Path) -> Result<OwnedFd, Problem> {
    UnixStream::connect(socket).map(OwnedFd::from).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::NotFound => "start the server first, and check its socket's path",
            ErrorKind::PermissionDenied => {
                "let this user write to the socket, and search the folders above it"
            }
            ErrorKind::ConnectionRefused if socket.metadata().is_ok_and(|it| !it.file_type().is_socket()) => {
                "this is no socket: give the path of the server's"
            }
            ErrorKind::ConnectionRefused => "nobody listens on it: start the server first",
            _ => "check the socket's path, and that its server takes connections",
        };
        Problem::usage(
            format!("the device's vfio-user server cannot be reached: {error}"),
            printable::path(socket),
            advice,
        )
        .because_of(&error)
    })
}

/// Stands in for what a VM does not have.
pub fn nothing() -> Result<OwnedFd, Problem> {
    memory_file::create("bulkhead-no-device").map_err(|errno| {
        let error = io::Error::from(errno);
        let what = format!("a memory file cannot be made: {error}");
        Problem::host(what, "launch", "check this user's limits on memory").because_of(&error)
    })
}
