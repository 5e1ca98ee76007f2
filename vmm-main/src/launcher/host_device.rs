// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's physical PCI devices, opened with the user's rights: VFIO's character device, and an iommufd for each.
//!
//! No ioctl is made here. What the host lacks is reported by name, with what to do: the device, its driver, the
//! character device, iommufd, the permission to open them, the limit on locked memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::holder;
use crate::config::size;
use crate::printable;
use crate::problem::Problem;

/// The host's paths of PCI devices, their VFIO files, and iommufd.
#[derive(Debug)]
pub struct Places {
    /// `/sys/bus/pci/devices`.
    pub devices: PathBuf,
    /// `/dev/vfio/devices`.
    pub cdevs: PathBuf,
    /// `/dev/iommu`.
    pub iommufd: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            devices: "/sys/bus/pci/devices".into(),
            cdevs: "/dev/vfio/devices".into(),
            iommufd: "/dev/iommu".into(),
        }
    }
}

impl Places {
    /// Opens the character device of the PCI device with this address.
    pub fn open_device(&self, address: &str) -> Result<File, Problem> {
        let folder = self.devices.join(address);
        if !folder.exists() {
            return Err(Problem::usage(
                "the host has no such PCI device",
                address,
                "`lspci -D` shows those that it has",
            ));
        }
        let driver = fs::read_link(folder.join("driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        if driver.as_deref() != Some("vfio-pci") {
            let has = driver.map_or_else(|| "no driver".to_owned(), |driver| format!("the driver {driver}"));
            return Err(Problem::usage(
                format!("the device has {has}, not vfio-pci"),
                address,
                format!(
                    "as root: echo vfio-pci > {0}/driver_override; echo {address} > {0}/driver/unbind; \
                     echo {address} > /sys/bus/pci/drivers_probe",
                    printable::path(&folder)
                ),
            ));
        }
        let name = fs::read_dir(folder.join("vfio-dev")).ok().and_then(|mut entries| entries.next()?.ok());
        let Some(name) = name.map(|entry| entry.file_name()) else {
            return Err(Problem::host(
                "the device has no VFIO character device",
                address,
                "use a kernel with CONFIG_VFIO_DEVICE_CDEV",
            ));
        };
        open(&self.cdevs.join(name), "the device's VFIO file")
    }

    /// Opens an iommufd: a context of its own each time.
    pub fn open_iommufd(&self) -> Result<File, Problem> {
        open(&self.iommufd, "iommufd")
    }
}

fn open(path: &Path, what: &str) -> Result<File, Problem> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        // VFIO lets one process open a device.
        let holder = (error.kind() == ErrorKind::ResourceBusy).then(|| holder::of_open_file(path)).flatten();
        let holder = holder.map_or_else(String::new, |holder| format!(", in use by {holder}"));
        let advice = match error.kind() {
            ErrorKind::NotFound => "use a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV",
            ErrorKind::PermissionDenied => "let this user read and write it, by its group or an access list",
            _ => "see that no other process uses the device",
        };
        Problem::host(format!("{what} cannot be opened: {error}{holder}"), printable::path(path), advice)
            .because_of(&error)
    })
}

/// Raises the limit on locked memory as far as this user may: every device pins all of guest RAM.
pub fn allow_pinning(memory_len: u64, devices: usize) -> Result<(), Problem> {
    // Page tables and queues of the kernel are not charged to the limit; the slack costs nothing.
    const SPARE_LEN: u64 = 64 << 20;
    let needed =
        memory_len.saturating_mul(u64::try_from(devices).unwrap_or(u64::MAX)).saturating_add(SPARE_LEN);
    let limit = getrlimit(Resource::Memlock);
    if devices == 0 || limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Memlock, Rlimit { current: Some(needed), maximum }).map_err(|errno| {
        Problem::host(
            format!(
                "guest RAM cannot be pinned for {devices} devices: this user may lock {}, {} are needed: {}",
                size::display(limit.maximum.unwrap_or(u64::MAX)),
                size::display(needed),
                io::Error::from(errno)
            ),
            "RLIMIT_MEMLOCK",
            "raise the limit (ulimit -l, or memlock in /etc/security/limits.conf)",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ADDRESS: &str = "0000:01:00.0";

    struct Host {
        folder: tempfile::TempDir,
        places: Places,
    }

    fn host() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let places = Places { devices: at("devices"), cdevs: at("cdevs"), iommufd: at("iommu") };
        fs::create_dir_all(places.devices.join(ADDRESS)).unwrap();
        fs::create_dir_all(&places.cdevs).unwrap();
        Host { folder, places }
    }

    #[test]
    fn whatever_the_host_lacks_is_named_with_what_to_do() {
        let Host { folder: _folder, places } = host();
        let refused = |address: &str| places.open_device(address).unwrap_err().to_string();
        assert!(refused("0000:02:00.0").contains("no such PCI device"));
        assert!(refused(ADDRESS).contains("no driver, not vfio-pci"));
        let device = places.devices.join(ADDRESS);
        symlink("/sys/bus/pci/drivers/nvme", device.join("driver")).unwrap();
        let bound = refused(ADDRESS);
        assert!(bound.contains("the driver nvme") && bound.contains("driver_override"), "{bound}");
        fs::remove_file(device.join("driver")).unwrap();
        symlink("/sys/bus/pci/drivers/vfio-pci", device.join("driver")).unwrap();
        assert!(refused(ADDRESS).contains("CONFIG_VFIO_DEVICE_CDEV"));
        fs::create_dir_all(device.join("vfio-dev/vfio7")).unwrap();
        let absent = refused(ADDRESS);
        assert!(absent.contains("vfio7") && absent.contains("CONFIG_IOMMUFD"), "{absent}");
        fs::write(places.cdevs.join("vfio7"), "").unwrap();
        assert!(places.open_device(ADDRESS).is_ok());
        let absent = places.open_iommufd().unwrap_err().to_string();
        assert!(absent.contains("iommufd cannot be opened") && absent.contains("CONFIG_IOMMUFD"), "{absent}");
    }

    #[test]
    fn without_devices_nothing_is_to_be_pinned() {
        assert_eq!(allow_pinning(u64::MAX, 0), Ok(()));
    }
}
