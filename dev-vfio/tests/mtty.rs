// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO's migration states, with the kernel's sample device that has them all: `mtty`, two serial ports in software.
//!
//! Without the sample every test here says that it is skipped; the Arm lab has it. What one port's registers hold must
//! be found in another device after its state was carried over, and every way between two states must lead where
//! `MigState::next` says that it does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[path = "mtty/moves.rs"]
mod moves;

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dev_vfio::physical::device::{self, Bound, How, PhysicalDevice};
use dev_vfio::physical::objects::Objects;
use dev_vfio::physical::sys::{cdev, iommufd};
use ipc::vfio_user::feature::{DMA_LOGGING_START, MigState, MigrationFlags};
use rustix::io::Errno;

const TYPE: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2";
/// The scratch register of a 16550, of the first port.
const SCRATCH: u64 = 7;

/// An instance of the sample device; it is gone when this is dropped.
struct Instance {
    folder: PathBuf,
}

/// Its open files.
struct Files {
    cdev: OwnedFd,
    iommu: OwnedFd,
}

impl Instance {
    fn new(index: u32) -> Option<Instance> {
        if !Path::new(TYPE).exists() {
            println!("SKIPPED: the kernel has no mtty sample device (`cargo xtask lab mtty` has one)");
            return None;
        }
        let uuid = format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa{index:04}");
        fs::write(Path::new(TYPE).join("create"), &uuid).unwrap();
        Some(Instance { folder: Path::new("/sys/bus/mdev/devices").join(&uuid) })
    }

    fn open(&self) -> Files {
        let name = fs::read_dir(self.folder.join("vfio-dev")).unwrap().next().unwrap().unwrap().file_name();
        let open = |path: &Path| OwnedFd::from(File::options().read(true).write(true).open(path).unwrap());
        let cdev = open(&Path::new("/dev/vfio/devices").join(name));
        Files { cdev, iommu: open(Path::new("/dev/iommu")) }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The kernel waits until the file is closed.
        let _ = fs::write(self.folder.join("remove"), "1");
    }
}

/// An instance that is bound and open.
struct Mtty {
    device: Option<PhysicalDevice>,
    cdev: Arc<OwnedFd>,
    objects: Option<Objects>,
    /// Dropped last.
    _instance: Instance,
}

impl Mtty {
    fn new(index: u32) -> Option<Mtty> {
        let instance = Instance::new(index)?;
        let Files { cdev, iommu } = instance.open();
        let (cdev, mut objects) = (Arc::new(cdev), Objects::new(iommu));
        let bound = device::bind(cdev.as_fd(), &objects).unwrap();
        assert_eq!(bound, Bound::Software { anew: true });
        let ioas = iommufd::ioas_alloc(objects.as_fd());
        cdev::attach(cdev.as_fd(), objects.keep(ioas).unwrap()).unwrap();
        let (device, _) = PhysicalDevice::open(Arc::clone(&cdev), bound, How::Reset).unwrap();
        Some(Mtty { device: Some(device), cdev, objects: Some(objects), _instance: instance })
    }

    fn device(&self) -> &PhysicalDevice {
        self.device.as_ref().unwrap()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.cdev.as_fd()
    }

    fn go(&self, state: MigState) -> Result<Option<OwnedFd>, Errno> {
        cdev::set_migration_state(self.fd(), state)
    }

    fn state(&self) -> MigState {
        cdev::migration_state(self.fd()).unwrap().unwrap()
    }

    /// Its state, as a stopped device gives it.
    fn save(&self) -> Vec<u8> {
        self.go(MigState::Stop).unwrap();
        let file = self.go(MigState::StopCopy).unwrap().expect("a file to read the state from");
        let saved = read(&file);
        self.go(MigState::Stop).unwrap();
        saved
    }

    /// Brings it to `state`. From RESUMING only a whole state leads on: it is given one there.
    fn go_with(&self, state: MigState, saved: &[u8]) -> Result<(), Errno> {
        let file = self.go(state)?;
        if state == MigState::Resuming {
            rustix::io::write(file.expect("a file to write the state to"), saved)?;
        }
        Ok(())
    }
}

impl Drop for Mtty {
    fn drop(&mut self) {
        let _ = cdev::detach(self.cdev.as_fd());
        self.device = None;
        self.objects = None;
        self.cdev = Arc::new(File::open("/dev/null").unwrap().into());
    }
}

/// All that a file of state has for now.
fn read(file: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(file, &mut buffer) {
            // The end, or the end for as long as the device runs.
            Ok(0) | Err(Errno::NOMSG) => return all,
            Ok(len) => all.extend_from_slice(&buffer[..len]),
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn state_of_one_device_is_found_in_another() {
    let (Some(source), Some(target)) = (Mtty::new(1), Mtty::new(2)) else { return };
    let all = MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY;
    assert_eq!(cdev::migration_flags(source.fd()), Ok(all));
    assert!(source.device().is_stoppable());
    source.device().write(0, SCRATCH, 1, 0x5a);
    assert_ne!(target.device().read(0, SCRATCH, 1), Some(0x5a));

    let precopy = source.go(MigState::PreCopy).unwrap().expect("a file for the first part");
    let mut saved = read(&precopy);
    let early = saved.len();
    source.device().write(0, SCRATCH, 1, 0xa5);
    assert!(source.go(MigState::PreCopyP2p).unwrap().is_none());
    assert!(source.go(MigState::StopCopy).unwrap().is_none(), "the same file goes on");
    saved.extend(read(&precopy));
    println!("{} bytes of state, {early} of them while the device ran", saved.len());

    let file = target.go(MigState::Resuming).unwrap().expect("a file to write to");
    assert_eq!(rustix::io::write(&file, &saved), Ok(saved.len()));
    target.go(MigState::Running).unwrap();
    assert_eq!((target.state(), target.device().read(0, SCRATCH, 1)), (MigState::Running, Some(0xa5)));
    source.go(MigState::Running).unwrap();
    assert_eq!(target.save(), source.save(), "what is saved again is the same");
}

#[test]
fn every_way_between_two_states_leads_where_the_table_says() {
    let Some(mtty) = Mtty::new(3) else { return };
    let saved = mtty.save();
    let states = MigState::ALL.into_iter().filter(|state| *state != MigState::Error);
    let (mut ways, mut closed) = (0, 0);
    for from in states.clone() {
        for to in states.clone().filter(|to| *to != from) {
            for state in [MigState::Running, from] {
                mtty.go_with(state, &saved).unwrap_or_else(|errno| panic!("{from:?}, {to:?}: {errno}"));
                assert_eq!(mtty.state(), state);
            }
            let went = mtty.go_with(to, &saved);
            if from.next(to).is_some() {
                assert_eq!((went, mtty.state()), (Ok(()), to), "{from:?} to {to:?}");
                ways += 1;
            } else {
                assert_eq!((went, mtty.state()), (Err(Errno::INVAL), from), "{from:?} to {to:?}");
                closed += 1;
            }
        }
    }
    println!("SEEN: {ways} ways between states went, {closed} are closed and were");
    assert_eq!((ways, closed), (40, 2));
}

#[test]
fn half_a_state_leads_nowhere_until_the_rest_has_come() {
    let Some(mtty) = Mtty::new(4) else { return };
    let saved = mtty.save();
    let file = mtty.go(MigState::Resuming).unwrap().unwrap();
    let (first, rest) = saved.split_at(saved.len() / 2);
    rustix::io::write(&file, first).unwrap();
    assert_eq!(mtty.go(MigState::Running).map(drop), Err(Errno::INVAL));
    assert_eq!(mtty.state(), MigState::Resuming);
    rustix::io::write(&file, rest).unwrap();
    mtty.go(MigState::Running).unwrap();
    assert_eq!(mtty.state(), MigState::Running);
}

#[test]
fn device_log_can_be_begun_read_and_ended() {
    let Some(mtty) = Mtty::new(5) else { return };
    assert_eq!(cdev::probe_feature(mtty.fd(), DMA_LOGGING_START, false), Ok(()));
    let granted = cdev::dma_logging_start(mtty.fd(), 0x4000_0000, 1 << 20, 4096).unwrap();
    let mut bitmap = [0; 4];
    // The sample does no DMA: its log is always empty.
    cdev::dma_logging_report(mtty.fd(), 0x4000_0000, 1 << 20, granted, &mut bitmap).unwrap();
    assert_eq!(bitmap, [0; 4]);
    cdev::dma_logging_stop(mtty.fd()).unwrap();
}
