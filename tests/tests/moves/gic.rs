// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's driver of its interrupt controller: lines of INTx, and messages through the ITS, all taken by CPU 0.
//!
//! Nobody is interrupted: the guest asks what is pending, so that the test counts every interrupt, one at a time.
//! Written from the manual (IHI 0069; section numbers beside the values), apart from the product's own types.

use crate::code::{ACKNOWLEDGE, END, SET_UP};
use crate::monitor::Monitor;

/// Distributor (§12.9): control, groups, enables, routes.
const GICD: u64 = 0x0810_0000;
const GICD_CTLR: u64 = GICD;
const GICD_IGROUPR: u64 = GICD + 0x80;
const GICD_ISENABLER: u64 = GICD + 0x100;
const GICD_IROUTER: u64 = GICD + 0x6000;
/// ARE, and both groups.
const DISTRIBUTES: u32 = 1 << 4 | 0b11;

/// Redistributor of CPU 0 (§12.11).
const GICR: u64 = 0x0840_0000;
const GICR_CTLR: u64 = GICR;
const GICR_WAKER: u64 = GICR + 0x14;
const GICR_PROPBASER: u64 = GICR + 0x70;
const GICR_PENDBASER: u64 = GICR + 0x78;
const CHILDREN_ASLEEP: u32 = 1 << 2;

/// ITS (§12.19), and where a device writes its message.
const GITS: u64 = 0x0820_0000;
const GITS_CTLR: u64 = GITS;
const GITS_CBASER: u64 = GITS + 0x80;
const GITS_CWRITER: u64 = GITS + 0x88;
const GITS_CREADR: u64 = GITS + 0x90;
const GITS_BASER: u64 = GITS + 0x100;
/// The page of `GITS_TRANSLATER`, and where it is in that.
pub const TRANSLATER_PAGE: u64 = 0x0821_0000;
pub const TRANSLATER_OFFSET: u64 = 0x40;

const VALID: u64 = 1 << 63;
/// Where this driver keeps its tables: the ITS's, the redistributor's, and the translation table of the one device.
const AREA: u64 = 0x4220_0000;
const COMMANDS: u64 = AREA;
const DEVICES: u64 = AREA + 0x1000;
const COLLECTIONS: u64 = AREA + 0x2000;
const EVENTS: u64 = AREA + 0x3000;
const CONFIGURATION: u64 = AREA + 0x4000;
const PENDING: u64 = AREA + 0x1_0000;

/// log2 of INTIDs with the LPIs that are used (§5.1.1), and of a device's events.
const INTID_BITS: u64 = 14;
const EVENT_BITS: u64 = 5;
/// The first LPI (§2.2).
pub const FIRST_LPI: u64 = 8192;
/// Nothing is pending (§2.2.1).
const SPURIOUS: u64 = 1023;

/// The interrupt controller.
pub struct Gic {
    /// Bytes of the command queue that are used.
    queued: u64,
}

impl Gic {
    /// Enables it, for the lines `intids` and the first events of one device: event `n` is LPI [`FIRST_LPI`] + `n`.
    pub fn enable(m: &mut Monitor, intids: &[u64], device_id: u64, event_count: u64) -> Self {
        m.store32(GICD_CTLR, DISTRIBUTES);
        for intid in intids {
            let (register, bit) = (intid / 32 * 4, 1 << (intid % 32));
            let groups = m.load32(GICD_IGROUPR + register);
            m.store32(GICD_IGROUPR + register, groups | bit);
            m.store64(GICD_IROUTER + 8 * intid, 0);
            m.store32(GICD_ISENABLER + register, bit);
        }
        m.store32(GICR_WAKER, 0);
        m.poll32(GICR_WAKER, "GICR_WAKER", |waker| waker & CHILDREN_ASLEEP == 0);
        // Priority 0xa0, enabled (§5.1.2), for eight of them.
        m.store64(CONFIGURATION, 0xa1a1_a1a1_a1a1_a1a1);
        m.store64(GICR_PROPBASER, CONFIGURATION | (INTID_BITS - 1));
        m.store64(GICR_PENDBASER, PENDING | 1 << 62);
        m.store32(GICR_CTLR, 1);
        m.store64(GITS_BASER, VALID | DEVICES);
        m.store64(GITS_BASER + 8, VALID | COLLECTIONS);
        m.store64(GITS_CBASER, VALID | COMMANDS);
        m.store32(GITS_CTLR, 1);
        let mut gic = Self { queued: 0 };
        // MAPD, MAPC, MAPTI, INV, SYNC (§5.3).
        gic.command(m, [0x08 | device_id << 32, EVENT_BITS - 1, VALID | EVENTS]);
        gic.command(m, [0x09, 0, VALID]);
        for event in 0..event_count {
            gic.command(m, [0x0a | device_id << 32, event | (FIRST_LPI + event) << 32, 0]);
            gic.command(m, [0x0c | device_id << 32, event, 0]);
        }
        gic.command(m, [0x05, 0, 0]);
        m.store64(GITS_CWRITER, gic.queued);
        let queued = u32::try_from(gic.queued).unwrap();
        m.poll32(GITS_CREADR, "GITS_CREADR", |read| read == queued);
        m.call(SET_UP, 0);
        gic
    }

    fn command(&mut self, m: &mut Monitor, words: [u64; 3]) {
        for (index, word) in words.into_iter().chain([0]).enumerate() {
            m.store64(COMMANDS + self.queued + 8 * index as u64, word);
        }
        self.queued += 32;
        assert!(self.queued < 0x1000, "the command queue is full");
    }

    /// Takes the interrupt that is pending, if one is; it is in progress until [`Self::end`].
    pub fn take(&self, m: &mut Monitor) -> Option<u64> {
        Some(m.call(ACKNOWLEDGE, 0)).filter(|intid| *intid != SPURIOUS)
    }

    /// Ends an interrupt that was taken.
    pub fn end(&self, m: &mut Monitor, intid: u64) {
        m.call(END, intid);
    }
}

/// The INTID of the pin of the device in this slot (the device tree's `interrupt-map`).
pub const fn pin_intid(slot: u64) -> u64 {
    32 + 8 + slot % 4
}
