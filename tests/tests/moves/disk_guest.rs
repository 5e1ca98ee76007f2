// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that remembers: a word in its memory, its SMMU's queues, and what its NVMe has of the last round.

use std::time::Instant;

use crate::monitor::Monitor;
use crate::nvme::{LOST, Nvme, Place, STREAM, SUCCESS, identify, transfer};
use crate::smmu::{Granule, READ_WRITE, Smmu};
use crate::support::COMMAND;

/// The controller's queues, what it writes, and where it reads that to.
const PAGE_COUNT: u64 = 6;
const WRITTEN: u64 = 4;
const READ: u64 = 5;
/// Where the disk has it.
const BLOCK: u32 = 8;
/// The word.
const WORD: u64 = 0x4380_0000;

fn place(page: u64) -> Place {
    Place { gpa: 0x4300_0000 + page * 0x1000, iova: 0x12_4000_0000 + page * 0x1000 }
}

/// The guest's drivers.
pub struct DiskGuest {
    smmu: Smmu,
    nvme: Nvme,
    last: u64,
}

impl DiskGuest {
    /// Sets everything up.
    pub fn start(m: &mut Monitor) -> Self {
        let mut smmu = Smmu::enable(m, Granule::K4, STREAM);
        for page in 0..PAGE_COUNT {
            smmu.map(m, place(page).iova, place(page).gpa | READ_WRITE);
        }
        let mut nvme = Nvme::find(m, [0, 1].map(place), [2, 3].map(place));
        nvme.enable(m);
        Self { smmu, nvme, last: 0 }
    }

    /// It has in its memory what it stored the last time, and stores something new.
    pub fn remembers(&mut self, m: &mut Monitor) {
        if self.last != 0 {
            assert_eq!(m.load64(WORD), self.last);
        }
        self.last = self.last * 3 + 1;
        m.store64(WORD, self.last);
        assert_eq!(m.load64(WORD), self.last);
    }

    /// The same, and its disk has what was written the last time, and takes something new; a page is mapped anew, which
    /// waits for the device.
    pub fn works(&mut self, m: &mut Monitor) {
        let (written, read) = (place(WRITTEN), place(READ));
        self.smmu.map(m, read.iova, read.gpa | READ_WRITE);
        m.store64(read.gpa, 0);
        assert_eq!(self.nvme.run(m, 0, identify(read.iova)), SUCCESS);
        assert_eq!(m.load64(read.gpa) & 0xffff, u64::from(self.nvme.vendor));
        if self.last != 0 {
            assert_eq!(self.nvme.run(m, 1, transfer(true, read.iova, BLOCK)), SUCCESS);
            assert_eq!(m.load64(read.gpa), self.last);
        }
        self.remembers(m);
        m.store64(written.gpa, self.last);
        assert_eq!(self.nvme.run(m, 1, transfer(false, written.iova, BLOCK)), SUCCESS);
        assert_eq!(self.smmu.events(m), [[0; 4]; 0]);
    }

    /// Its disk is lost, or about to be.
    pub fn loses_its_disk(&mut self, m: &mut Monitor) {
        let until = Instant::now() + COMMAND;
        while self.nvme.version(m) != LOST {
            assert!(Instant::now() < until, "the disk's process has ended, and its registers are there");
        }
        self.remembers(m);
    }
}
