// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is behind assigned devices, opened with the user's rights: images, connections to servers, and devices of the
//! host.
//!
//! No data is read from them here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc::hello::Role;
use ipc::instance::InstanceId;

use super::host_device::Places;
use crate::config::{Behind, DeviceConfig};
use crate::printable;
use crate::problem::Problem;
use crate::system::{self, EdgeKind, ObjectId};

/// What was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The descriptors for the devices.
    pub objects: Vec<(ObjectId, OwnedFd)>,
    /// Devices whose servers could not be reached, with the reason: the VM starts without them.
    pub unreachable: BTreeMap<InstanceId, String>,
}

/// Opens what is behind each device. The images of a guest that is yet to come are another VM's until then.
pub fn open_all(
    devices: &[DeviceConfig],
    image: fn(&Path, bool) -> Result<File, Problem>,
) -> Result<Opened, Problem> {
    let mut opened = Opened::default();
    for (index, device) in (0..).zip(devices) {
        let id = system::device(index);
        let of = |kind, owner| ObjectId { kind, owner, index: 0 };
        match &device.behind {
            Behind::VfioUser(socket) => {
                let server = match connect(socket) {
                    Ok(server) => server,
                    Err(problem) if device.required == Some(false) => {
                        opened.unreachable.insert(id, format!("{} ({})", problem.what, problem.place));
                        closed()?
                    }
                    Err(problem) => return Err(problem),
                };
                opened.objects.push((of(EdgeKind::VfioUser, id), server));
            }
            Behind::Nvme(disk) => {
                let image = image(&disk.image, disk.readonly)?;
                let server = InstanceId::new(Role::Nvme, index);
                opened.objects.push((of(EdgeKind::Image, server), image.into()));
            }
            Behind::Physical(address) => {
                let places = Places::default();
                let device = places.open_device(address)?;
                opened.objects.push((of(EdgeKind::PhysicalDevice, id), device.into()));
                opened.objects.push((of(EdgeKind::Iommufd, id), places.open_iommufd()?.into()));
            }
        }
    }
    Ok(opened)
}

/// The sockets of the devices whose vfio-user server is not one of ours, by device.
pub fn servers(devices: &[DeviceConfig]) -> Vec<Option<PathBuf>> {
    let server = |device: &DeviceConfig| match &device.behind {
        Behind::VfioUser(socket) => Some(socket.clone()),
        Behind::Nvme(_) | Behind::Physical(_) => None,
    };
    devices.iter().map(server).collect()
}

/// Reconnects: a server may need a moment to notice that its last client is gone, and to accept again.
pub async fn reopen(socket: &Path) -> io::Result<OwnedFd> {
    let until = tokio::time::Instant::now() + REOPEN_SPAN;
    loop {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(connection) => {
                let connection = connection.into_std()?;
                // Blocking, like the first connection.
                connection.set_nonblocking(false)?;
                return Ok(connection.into());
            }
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(REOPEN_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// How long a server may take to accept its next client.
const REOPEN_SPAN: Duration = Duration::from_secs(5);
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

/// A connection whose other end is closed, as that of a server that is gone.
fn closed() -> Result<OwnedFd, Problem> {
    let pair = UnixStream::pair();
    pair.map(|(ours, _)| ours.into()).map_err(|error| {
        let what = format!("a socket cannot be made: {error}");
        Problem::host(what, "launch", "check this user's limits on open files").because_of(&error)
    })
}
