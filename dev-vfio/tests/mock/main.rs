// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! iommufd with the kernel's own mock of an IOMMU (`CONFIG_IOMMUFD_TEST`): what no SMMU that can be emulated has, a
//! nesting parent that logs writes, and what comes rarely with a real one, exactly countable.
//!
//! Everything but the mock's own commands goes through the product's code. Without the mock every test here says that
//! it is skipped; the Arm lab has it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod dirty;
mod ioctl;
mod nested;
mod objects;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dev_vfio::physical::objects::Objects;
use dev_vfio::physical::sys::iommufd::{self, ObjectId};
use ioctl::MockDevice;
use ipc::addr::Gpa;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::region::Region;
use rustix::io::Errno;

const PAGE: u64 = 4096;

/// RAM in two pieces, neither of whole words of a bitmap, the second one behind the first in the file.
const FIRST: u64 = 0x4000_0000;
const FIRST_PAGES: u64 = 300;
const SECOND: u64 = 0x5000_0000;
const SECOND_PAGES: u64 = 130;

fn layout() -> RamLayout {
    let region = |gpa, pages, offset| RamRegion { gpa: Gpa(gpa), len: pages * PAGE, file_offset: offset };
    RamLayout::new(vec![region(FIRST, FIRST_PAGES, 0), region(SECOND, SECOND_PAGES, FIRST_PAGES * PAGE)])
        .unwrap()
}

/// One context with guest RAM and a device in it.
struct Mock {
    device: MockDevice,
    ioas: ObjectId,
    objects: Objects,
    ram: Region,
}

impl Mock {
    /// As a device process has it. `logs`: what the device's IOMMU can do.
    fn new(logs: bool) -> Option<Mock> {
        Mock::over(iommu()?, logs, true)
    }

    fn over(iommu: OwnedFd, logs: bool, small_pages: bool) -> Option<Mock> {
        let mut objects = Objects::new(iommu);
        let ioas = iommufd::ioas_alloc(objects.as_fd());
        let ioas = objects.keep(ioas).unwrap();
        if small_pages {
            ioctl::small_pages(objects.as_fd(), ioas).unwrap();
        }
        let layout = layout();
        let ram = Region::create("ram", (FIRST_PAGES + SECOND_PAGES) * PAGE).unwrap();
        for RamRegion { gpa, len, file_offset } in layout.regions() {
            iommufd::ioas_map_file(objects.as_fd(), ioas, ram.as_fd(), *file_offset, *len, gpa.0).unwrap();
        }
        match ioctl::device(objects.as_fd(), ioas, logs) {
            Ok(device) => Some(Mock { device, ioas, objects, ram }),
            Err(Errno::NOTTY) => {
                println!("SKIPPED: the kernel's iommufd has no mock (`cargo xtask lab mock` has one)");
                None
            }
            Err(errno) => panic!("{errno}"),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.objects.as_fd()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // The device goes first, so that nothing is in use when the objects are destroyed.
        let _ = iommufd::destroy(self.objects.as_fd(), self.device.itself);
    }
}

/// A context, or why there is none.
fn iommu() -> Option<OwnedFd> {
    let opened = File::options().read(true).write(true).open("/dev/iommu");
    if let Err(error) = &opened {
        println!("SKIPPED: /dev/iommu cannot be opened ({error}); `cargo xtask lab mock` has one");
    }
    opened.ok().map(OwnedFd::from)
}
