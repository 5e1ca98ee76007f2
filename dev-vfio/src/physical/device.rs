// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A physical device by its VFIO character device: regions by reading and writing the file, interrupts, reset,
//! stopping; its state is in [`super::migration`].
//!
//! The same verbs as [`Client`](crate::vfio_user::client::Client) has for a vfio-user server. An access that the
//! kernel refuses (the device is in reset, or gone from its slot) reads as all ones, as on hardware; it does not fail
//! the device, because the guest's driver handles it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ipc::vfio_user::device::{DeviceInfo, PCI_CONFIG_REGION, RegionDescription, RegionInfo};
use ipc::vfio_user::feature::{MigState, MigrationFlags};
use rustix::io::Errno;

use super::error::{KernelError, of_bind, plain, refused};
use super::interrupts::Interrupts;
use super::journal::HostJournal;
use super::objects::Objects;
use super::sys::cdev;
use super::sys::iommufd::ObjectId;
use crate::backend::Opened;
use crate::keeper::Keeper;
use crate::pci::bar::BAR_COUNT;
use crate::pci::config_space::CONFIG_LEN;
use crate::pci::windows::Mappable;

/// A region's offset in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    file_offset: u64,
    len: u64,
    readable: bool,
    writable: bool,
}

/// A bound device.
#[derive(Debug)]
pub struct PhysicalDevice {
    cdev: Arc<OwnedFd>,
    interrupts: Interrupts,
    regions: Vec<Region>,
    resettable: bool,
    stoppable: bool,
    /// Its DMA goes through no IOMMU of the host's.
    is_software: bool,
    /// A next life may have used it.
    pub(super) lent: AtomicBool,
    /// What a next life needs, if this one may die and be followed.
    pub(super) kept: Option<Kept>,
}

/// Where a next life finds the function, and what was begun at its device.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The function.
    pub keeper: Arc<Keeper>,
    /// The host's objects, and accesses.
    pub journal: HostJournal,
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Out of reset.
    Reset,
    /// As it is, without interrupts: its state is restored.
    Restore,
    /// As an earlier life of the process has left it, whose interrupts it signals.
    Adopt,
}

/// What a device is bound as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A device behind an IOMMU, by its number in the context.
    BehindIommu(ObjectId),
    /// A device in software (an mdev), which the kernel gives no IOMMU. `anew`: by this life of the process.
    Software {
        /// Bound by this life of the process, and not by an earlier one.
        anew: bool,
    },
}

/// Binds a device to an iommufd context, or takes over the binding made by an earlier life of this process.
///
/// # Errors
/// If another process uses the device, or a file is not of VFIO or iommufd.
pub fn bind(cdev: BorrowedFd<'_>, objects: &Objects) -> Result<Bound, KernelError> {
    match cdev::bind(cdev, objects.as_fd()) {
        // Bound already: through this open file, which the coordinator has kept, or through another process's.
        Err(Errno::INVAL) if objects.has_device() => {
            cdev::detach(cdev).map_err(|_| KernelError::InUse)?;
            objects.clear_earlier().map(Bound::BehindIommu).ok_or(KernelError::InUse)
        }
        // Only a device with migration states is moved, and no other in software has an earlier life.
        Err(Errno::INVAL) if cdev::migration_flags(cdev).is_ok() => Ok(Bound::Software { anew: false }),
        Err(Errno::INVAL) => Err(KernelError::InUse),
        Ok(id) if objects.is_device(id) => Ok(Bound::BehindIommu(id)),
        Ok(_) => Ok(Bound::Software { anew: true }),
        Err(errno) => Err(refused("VFIO_DEVICE_BIND_IOMMUFD", of_bind)(errno)),
    }
}

impl PhysicalDevice {
    /// Reads a bound device's description, and resets it if it supports that and is to be.
    ///
    /// # Errors
    /// If the kernel refuses a call, or it is no PCI device.
    pub fn open(cdev: Arc<OwnedFd>, bound: Bound, how: How) -> Result<(PhysicalDevice, Opened), KernelError> {
        let fd = cdev.as_fd();
        let resettable = describe_device(fd)?.flags.get() & DeviceInfo::RESET != 0;
        if resettable && how == How::Reset {
            cdev::reset(fd).map_err(refused("VFIO_DEVICE_RESET", plain))?;
        }
        let (mut regions, mut mappables) = (Vec::new(), Vec::new());
        for index in 0..=PCI_CONFIG_REGION {
            let described = describe(fd, index)?;
            regions.push(described.as_ref().map(Region::of).unwrap_or_default());
            // Device memory: mapping it is charged to no process.
            let mappable = described.and_then(|described| Mappable::of(index, &described, u64::MAX));
            mappables.extend(mappable.map(|mappable| (mappable, Arc::clone(&cdev))));
        }
        let (vectors, intx) = Interrupts::count(&cdev);
        let interrupts = match how {
            How::Reset | How::Restore => Interrupts::none(Arc::clone(&cdev)),
            How::Adopt => Interrupts::left(Arc::clone(&cdev)),
        };
        let stoppable = cdev::migration_flags(fd).is_ok_and(|flags| flags & MigrationFlags::STOP_COPY != 0);
        let is_software = matches!(bound, Bound::Software { .. });
        let lent = AtomicBool::new(false);
        let kept = None;
        let device =
            PhysicalDevice { cdev, interrupts, regions, resettable, stoppable, is_software, lent, kept };
        let mut config = vec![0; CONFIG_LEN];
        // Some software devices have a few bytes less: the rest is zero.
        let len = device.region(PCI_CONFIG_REGION).map_or(0, |region| region.len);
        let there = usize::try_from(len).unwrap_or(CONFIG_LEN).min(CONFIG_LEN);
        device
            .read_bytes(PCI_CONFIG_REGION, 0, config.get_mut(..there).unwrap_or_default())
            .map_err(refused("reading the configuration space", plain))?;
        let mut lens = device.regions.iter().map(|region| region.len);
        let bar_lens: [u64; BAR_COUNT] = core::array::from_fn(|_| lens.next().unwrap_or(0));
        let vectors = u16::try_from(vectors).unwrap_or(u16::MAX);
        Ok((device, Opened { config, bar_lens, vectors, intx, mappables }))
    }

    /// Reads up to 8 bytes of a region. `None`: the region does not have them, or the kernel refuses.
    pub fn read(&self, index: u32, offset: u64, size: u8) -> Option<u64> {
        self.region(index).filter(|region| region.readable)?;
        let mut bytes = [0; 8];
        let wanted = bytes.get_mut(..size.into())?;
        self.begun(index, offset, || self.read_bytes(index, offset, wanted)).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Writes up to 8 bytes of a region, if it is there and the kernel does not refuse.
    pub fn write(&self, index: u32, offset: u64, size: u8, value: u64) {
        let Some(region) = self.region(index).filter(|region| region.writable) else { return };
        let bytes = value.to_le_bytes();
        let Some(bytes) = bytes.get(..size.into()) else { return };
        if let Some(at) = place(region, offset, bytes.len()) {
            // Refused: dropped, like a posted write that no device claims.
            let _ = self.begun(index, offset, || rustix::io::pwrite(&self.cdev, bytes, at));
        }
    }

    /// Does an access. Those to configuration space can be done twice: the kernel answers them, or the device as if
    /// it had been asked once. What the registers in a BAR do at an access is not known here.
    fn begun<T>(&self, index: u32, offset: u64, access: impl FnOnce() -> T) -> T {
        if let Some(kept) = self.kept.as_ref().filter(|_| index != PCI_CONFIG_REGION) {
            kept.journal.begin_access(index, offset);
        }
        access()
    }

    /// The access that was done last is out of the ring: no next life does it again.
    pub fn answered(&self) {
        if let Some(kept) = &self.kept {
            kept.journal.end_access();
        }
    }

    /// Its eventfds, and the calls that connect them.
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Its interrupts, to set their eventfds.
    pub fn interrupts_mut(&mut self) -> &mut Interrupts {
        &mut self.interrupts
    }

    /// Resets the device, if it can be: a function level reset where it has one. Its interrupts stay connected.
    ///
    /// # Errors
    /// If the kernel refuses the call.
    pub fn reset(&self) -> Result<(), KernelError> {
        if self.resettable {
            cdev::reset(self.cdev.as_fd()).map_err(refused("VFIO_DEVICE_RESET", plain))?;
        }
        Ok(())
    }

    /// Stops or resumes the device, if it has migration states. One without them keeps running: its DMA cannot be
    /// stopped without losing requests in flight.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn set_running(&self, running: bool) -> Result<(), KernelError> {
        if self.stoppable {
            let state = if running { MigState::Running } else { MigState::Stop };
            cdev::set_migration_state(self.cdev.as_fd(), state)
                .map_err(refused("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", plain))?;
        }
        Ok(())
    }

    /// Whether it can be stopped.
    pub fn is_stoppable(&self) -> bool {
        self.stoppable
    }

    /// Whether its DMA goes through no IOMMU of the host's.
    pub fn is_software(&self) -> bool {
        self.is_software
    }

    /// Its file.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.cdev.as_fd()
    }

    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(usize::try_from(index).ok()?)
    }

    fn read_bytes(&self, index: u32, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let at = self.region(index).and_then(|region| place(region, offset, bytes.len()));
        let len = bytes.len();
        match rustix::io::pread(&self.cdev, bytes, at.ok_or(Errno::INVAL)?)? {
            read if read == len => Ok(()),
            _ => Err(Errno::IO),
        }
    }
}

/// The file offset of an access, if all of it is inside the region.
fn place(region: &Region, offset: u64, len: usize) -> Option<u64> {
    let end = offset.checked_add(u64::try_from(len).ok()?)?;
    (end <= region.len).then(|| region.file_offset.checked_add(offset)).flatten()
}

/// The kernel's description of a device, which must be a PCI device.
///
/// # Errors
/// If the kernel refuses the call, or it is none.
pub fn describe_device(fd: BorrowedFd<'_>) -> Result<DeviceInfo, KernelError> {
    let info = cdev::device_info(fd).map_err(refused("VFIO_DEVICE_GET_INFO", plain))?;
    DeviceInfo::decode_pci(zerocopy::IntoBytes::as_bytes(&info))?;
    Ok(info)
}

/// The kernel's description of a region; `None` for one that this device does not have (VGA and others).
fn describe(fd: BorrowedFd<'_>, index: u32) -> Result<Option<RegionDescription>, KernelError> {
    match cdev::region_info(fd, index) {
        Err(Errno::INVAL) => Ok(None),
        described => Ok(Some(described.map_err(refused("VFIO_DEVICE_GET_REGION_INFO", plain))??)),
    }
}

impl Region {
    fn of(described: &RegionDescription) -> Region {
        let (info, flags) = (described.info, described.info.flags.get());
        Region {
            file_offset: info.offset.get(),
            len: info.size.get(),
            readable: flags & RegionInfo::READ != 0,
            writable: flags & RegionInfo::WRITE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_must_be_inside_its_region_all_of_it() {
        let region = Region { file_offset: 1 << 40, len: 0x1000, readable: true, writable: true };
        assert_eq!(place(&region, 0xff8, 8), Some((1 << 40) + 0xff8));
        assert_eq!(place(&region, 0xff9, 8), None);
        assert_eq!(place(&region, u64::MAX, 8), None);
    }

    #[test]
    fn device_that_is_none_is_refused_by_the_call_that_finds_out() {
        let null = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let bound = Bound::Software { anew: true };
        let refused = PhysicalDevice::open(Arc::clone(&null), bound, How::Reset).unwrap_err().to_string();
        assert!(refused.starts_with("VFIO_DEVICE_GET_INFO is refused by the kernel"), "{refused}");
        let objects = Objects::new(null.try_clone().unwrap());
        let refused = bind(null.as_fd(), &objects).unwrap_err().to_string();
        assert!(refused.contains("not of a VFIO device"), "{refused}");
    }
}
