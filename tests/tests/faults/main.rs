// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Forbidden DMA: each kind gives the guest its architected event, once, with its stream, and the machine goes on.
//!
//! The guest here is a monitor that the test drives, so the tables may be as wrong as the test wants. `linux.rs` finds
//! one fault in the log of a stock kernel. `host.rs` does both with a physical device of the host, whose DMA the host's
//! SMMU translates.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod host;
mod linux;
#[expect(dead_code, reason = "the guest of other suites too, which call code")]
mod monitor;
#[expect(dead_code, reason = "the driver of another suite too, which needs more of it")]
mod nvme;
mod smmu;
#[expect(dead_code, reason = "this suite starts machines of its own making only")]
#[path = "../support/mod.rs"]
mod support;

use std::{fs::File, path::PathBuf};

use self::{
    monitor::Monitor,
    nvme::{DATA_TRANSFER_ERROR, Nvme, Place, STREAM, SUCCESS, identify, write_block},
    smmu::{
        ACCESSED, C_BAD_CD, C_BAD_STE, C_BAD_STREAMID, CLASS_IN, CLASS_TTD, F_ACCESS, F_ADDR_SIZE,
        F_CD_FETCH, F_PERMISSION, F_STE_FETCH, F_TRANSLATION, F_WALK_EABT, Granule, NOWHERE, READ_ONLY,
        READ_WRITE, Record, Smmu, record,
    },
};

/// Guest memory of the pages, apart enough for every granule, and where the device sees them side by side.
const PAGES: u64 = 0x4300_0000;
const PAGE_SPACING: u64 = 0x1_0000;
const IOVA: u64 = 0x12_4000_0000;

/// Pages of the controller.
const ADMIN: [u64; 2] = [0, 1];
const IO: [u64; 2] = [2, 3];
const DATA: u64 = 4;
/// The page whose translation each case breaks.
const VICTIM: u64 = 5;
const PAGE_COUNT: u64 = 6;

fn image(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(16 << 20)).unwrap();
    path
}

struct Rig {
    m: Monitor,
    smmu: Smmu,
    nvme: Nvme,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn start(name: &str, granule: Granule) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&folder);
        let mut m = Monitor::start(folder.path(), name, |options| options.nvme = vec![image])?;
        let mut smmu = Smmu::enable(&mut m, granule, STREAM);
        let place = |page| place(granule, page);
        for page in 0..PAGE_COUNT {
            smmu.map(&mut m, place(page).iova, place(page).gpa | READ_WRITE);
        }
        let mut nvme = Nvme::find(&mut m, ADMIN.map(place), IO.map(place));
        nvme.enable(&mut m);
        let mut rig = Self { m, smmu, nvme, _folder: folder };
        rig.works();
        Some(rig)
    }

    /// Both directions of DMA to the good page, and no event of it.
    fn works(&mut self) {
        let data = place(self.smmu.granule, DATA);
        self.m.store64(data.gpa, 0);
        assert_eq!(self.nvme.run(&mut self.m, 0, identify(data.iova)), SUCCESS);
        assert_eq!(self.m.load64(data.gpa) & 0xffff, u64::from(self.nvme.vendor));
        assert_eq!(self.nvme.run(&mut self.m, 1, write_block(data.iova)), SUCCESS);
        assert_eq!(self.smmu.events(&mut self.m), [] as [Record; 0]);
    }

    fn victim(&self) -> Place {
        place(self.smmu.granule, VICTIM)
    }

    /// One device write and one device read of the victim, and what each must give.
    fn breaks(&mut self, leaf: u64, kind: u64, expected: [bool; 2]) {
        let Place { iova, .. } = self.victim();
        let granule = self.smmu.granule;
        self.smmu.map(&mut self.m, iova, leaf);
        for (queue, command, read) in [(0, identify(iova), false), (1, write_block(iova), true)] {
            let faults = expected[usize::from(read)];
            let status = self.nvme.run(&mut self.m, queue, command);
            let what = format!("{granule:?}, event {kind:#x}, read {read}");
            if faults {
                assert_eq!(status, DATA_TRANSFER_ERROR, "{what}");
                // The device's answer and the SMMU's record come by different ways, in any order.
                let records = self.smmu.wait_events(&mut self.m);
                assert_eq!(records, [record(kind, STREAM, Some((read, CLASS_IN)), iova, 0)], "{what}");
            } else {
                assert_eq!((status, self.smmu.events(&mut self.m)), (SUCCESS, Vec::new()), "{what}");
            }
        }
        self.works();
    }

    /// The controller cannot even fetch its command: it gives up, and goes on after a reset once `mend` was done.
    fn stops(&mut self, expected: Record, mend: impl FnOnce(&mut Smmu, &mut Monitor)) {
        let data = place(self.smmu.granule, DATA);
        self.nvme.submit(&mut self.m, 0, identify(data.iova));
        let records = self.smmu.wait_events(&mut self.m);
        assert_eq!(records, [expected], "{:?}", self.smmu.granule);
        self.nvme.wait_fatal(&mut self.m);
        mend(&mut self.smmu, &mut self.m);
        self.nvme.enable(&mut self.m);
        self.works();
    }

    fn end(self) {
        self.m.end(5);
    }
}

fn place(granule: Granule, page: u64) -> Place {
    Place { gpa: PAGES + page * PAGE_SPACING, iova: IOVA + (page << granule.page_log2()) }
}

#[test]
fn dma_that_a_page_forbids_is_told_with_stream_address_and_direction() {
    for granule in [Granule::K4, Granule::K16, Granule::K64] {
        let Some(mut rig) = Rig::start("pages", granule) else { return };
        let page = rig.victim().gpa;
        // Both directions have been used with the good page: what is cached of it must not help.
        rig.breaks(page | READ_WRITE, 0, [false, false]);
        rig.breaks(0, F_TRANSLATION, [true, true]);
        rig.breaks(page | READ_ONLY, F_PERMISSION, [true, false]);
        rig.breaks(page | READ_WRITE & !ACCESSED, F_ACCESS, [true, true]);
        // CD.IPS is 40 bits.
        rig.breaks(1 << 40 | READ_WRITE, F_ADDR_SIZE, [true, true]);
        rig.breaks(page | READ_WRITE, 0, [false, false]);
        rig.end();
    }
}

#[test]
fn dma_under_a_bad_context_descriptor_is_told_and_mended() {
    let Some(mut rig) = Rig::start("contexts", Granule::K4) else { return };
    let good = rig.smmu.context();
    let [word, tables, _, mair] = good;
    let mend = |smmu: &mut Smmu, m: &mut Monitor| {
        smmu.put_context(m, good);
        smmu.renew_context(m);
    };
    let cases = [
        word & !(1 << 31), // V is 0
        word & !(1 << 41), // the tables are AArch32's
        word | 0b11 << 6,  // TG0 is reserved
        word & !0x3f | 40, // T0SZ is beyond 39
        word & !(1 << 46), // a terminated transaction would not abort
    ];
    for word in cases {
        rig.smmu.put_context(&mut rig.m, [word, tables, 0, mair]);
        rig.smmu.renew_context(&mut rig.m);
        rig.stops(record(C_BAD_CD, STREAM, None, 0, 0), mend);
    }
    // The context is good and its tables are where no RAM is: the walk for the next command's entry fails.
    rig.smmu.put_context(&mut rig.m, [word, NOWHERE, 0, mair]);
    rig.smmu.renew_context(&mut rig.m);
    let entry = rig.nvme.next_fetch();
    let fetch = rig.smmu.first_fetch(NOWHERE, entry);
    rig.stops(record(F_WALK_EABT, STREAM, Some((true, CLASS_TTD)), entry, fetch), mend);
    rig.end();
}

#[test]
fn dma_under_a_bad_stream_table_entry_is_told_and_mended() {
    let Some(mut rig) = Rig::start("streams", Granule::K4) else { return };
    let good = rig.smmu.entry();
    let mend = |smmu: &mut Smmu, m: &mut Monitor| {
        smmu.put_stream(m, good);
        smmu.renew_stream(m);
    };
    let bad = record(C_BAD_STE, STREAM, None, 0, 0);
    let cases = [
        // V is 0; a stage 2 that this SMMU has not; a stall that it has not either.
        (bad, [good[0] & !1, good[1]]),
        (bad, [good[0] & !0b1110 | 0b110 << 1, good[1]]),
        (bad, [good[0], good[1] | 1 << 27]),
        // The CD is where no RAM is.
        (record(F_CD_FETCH, STREAM, None, 0, NOWHERE), [1 | 0b101 << 1 | NOWHERE, good[1]]),
    ];
    for (expected, words) in cases {
        rig.smmu.put_stream(&mut rig.m, words);
        rig.smmu.renew_stream(&mut rig.m);
        rig.stops(expected, mend);
    }
    // An entry that asks for abort is obeyed in silence.
    rig.smmu.put_stream(&mut rig.m, [1, 0]);
    rig.smmu.renew_stream(&mut rig.m);
    let data = place(Granule::K4, DATA);
    rig.nvme.submit(&mut rig.m, 0, identify(data.iova));
    rig.nvme.wait_fatal(&mut rig.m);
    assert_eq!(rig.smmu.events(&mut rig.m), [] as [Record; 0]);
    mend(&mut rig.smmu, &mut rig.m);
    rig.nvme.enable(&mut rig.m);
    rig.works();
    rig.end();
}

#[test]
fn dma_of_a_stream_without_an_entry_is_told_and_mended() {
    let Some(mut rig) = Rig::start("tables", Granule::K4) else { return };
    // A table of eight entries has none for stream 8.
    rig.smmu.move_streams(&mut rig.m, NOWHERE, 3);
    rig.stops(record(C_BAD_STREAMID, STREAM, None, 0, 0), Smmu::restore_streams);
    rig.smmu.move_streams(&mut rig.m, NOWHERE, 4);
    rig.stops(record(F_STE_FETCH, STREAM, None, 0, NOWHERE + 64 * STREAM), Smmu::restore_streams);
    rig.end();
}
