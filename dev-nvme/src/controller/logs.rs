// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Log pages, NVMe 1.4 section 5.14, and the counters behind them.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::admin::AdminOutcome;
use super::features::TEMPERATURE_K;
use super::identify::{FIRMWARE, NSID};
use super::{Controller, Moved, Outcome};
use crate::spec::command::{Command, NSID_ALL, admin, io};
use crate::spec::identify::ascii;
use crate::spec::log::{
    CommandEffects, EFFECT_BLOCKS, EFFECT_SUPPORTED, ErrorEntry, FirmwareSlots, Smart, page, zeroed,
};
use crate::spec::status::Status;

/// Entries of the error log: `ELPE` + 1.
pub const ERRORS_MAX: usize = 16;

/// The longest transfer of Get Log Page: no page is longer.
const PIECE_MAX: usize = 4096;

/// The SMART counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the log page's")]
pub struct Counters {
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub reads: u64,
    pub writes: u64,
    pub media_errors: u64,
    pub power_cycles: u64,
    pub unsafe_shutdowns: u64,
}

impl Counters {
    pub(super) fn moved(&mut self, moved: Moved, block_shift: u8) {
        let Moved { read, written } = moved;
        if read > 0 {
            self.reads = self.reads.saturating_add(1);
            self.bytes_read = self.bytes_read.saturating_add(u64::from(read) << block_shift);
        }
        if written > 0 {
            self.writes = self.writes.saturating_add(1);
            self.bytes_written = self.bytes_written.saturating_add(u64::from(written) << block_shift);
        }
    }
}

/// The last errors, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorLog {
    /// Errors ever recorded.
    pub count: u64,
    /// The last of them, each as its entry's bytes.
    pub entries: VecDeque<[u8; 64]>,
}

impl ErrorLog {
    pub(super) fn add(&mut self, sqid: u16, cid: u16, outcome: &Outcome) {
        self.count = self.count.saturating_add(1);
        let status = outcome.status.with_phase(false);
        let entry = ErrorEntry::new(self.count, sqid, cid, status, outcome.nsid, outcome.lba);
        self.entries.push_front(zerocopy::transmute!(entry));
        self.entries.truncate(ERRORS_MAX);
    }
}

impl Controller {
    /// The image failed a command.
    pub fn count_media_error(&mut self) {
        self.counters.media_errors = self.counters.media_errors.saturating_add(1);
    }

    pub(super) fn get_log_page(&mut self, command: &Command) -> AdminOutcome {
        let cdw10 = command.cdw10.get();
        let log = u8::try_from(cdw10 & 0xff).unwrap_or(0);
        if !matches!(command.nsid.get(), 0 | NSID | NSID_ALL) {
            return AdminOutcome::status(Status::INVALID_NAMESPACE);
        }
        let bytes = match log {
            page::ERROR => self.error_page(),
            page::SMART => self.smart_page(),
            page::FIRMWARE_SLOT => firmware_page(),
            // No namespace ever changes.
            page::CHANGED_NAMESPACES => vec![0; 4096],
            page::COMMANDS_EFFECTS => effects_page(),
            _ => return AdminOutcome::status(Status::INVALID_LOG_PAGE),
        };
        // NUMDU and NUMDL, 0's based; LPOU and LPOL.
        let dwords = (u64::from(command.cdw11.get() & 0xffff) << 16 | u64::from(cdw10 >> 16)) + 1;
        let offset = u64::from(command.cdw13.get()) << 32 | u64::from(command.cdw12.get());
        let start = usize::try_from(offset).ok().filter(|start| start % 4 == 0);
        let Some(rest) = start.and_then(|start| bytes.get(start..)) else {
            return AdminOutcome::status(Status::INVALID_FIELD);
        };
        let retain = cdw10 & RETAIN_EVENT != 0;
        if !retain {
            self.events.log_was_read(log);
            self.tell_events();
        }
        // Data beyond the page's end is undefined: zeros, up to the longest page.
        let len = usize::try_from(dwords.saturating_mul(4)).unwrap_or(usize::MAX).min(PIECE_MAX);
        let mut piece = rest.to_vec();
        piece.resize(len, 0);
        AdminOutcome::Data(piece)
    }

    fn error_page(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.errors.entries.iter().flatten().copied().collect();
        bytes.resize(ERRORS_MAX * size_of::<ErrorEntry>(), 0);
        bytes
    }

    fn smart_page(&self) -> Vec<u8> {
        // Thousands of 512 bytes, rounded up.
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
        let counters = &self.counters;
        let mut log: Smart = zeroed();
        log.critical_warning = u8::from(self.features.temperature_alarm()) << 1;
        log.temperature = TEMPERATURE_K.into();
        log.available_spare = 100;
        log.spare_threshold = 10;
        log.data_units_read = units(counters.bytes_read).into();
        log.data_units_written = units(counters.bytes_written).into();
        log.host_reads = u128::from(counters.reads).into();
        log.host_writes = u128::from(counters.writes).into();
        log.power_cycles = u128::from(counters.power_cycles).into();
        log.unsafe_shutdowns = u128::from(counters.unsafe_shutdowns).into();
        log.media_errors = u128::from(counters.media_errors).into();
        log.error_entries = u128::from(self.errors.count).into();
        log.as_bytes().to_vec()
    }
}

/// `CDW10` bit 15.
const RETAIN_EVENT: u32 = 1 << 15;

fn firmware_page() -> Vec<u8> {
    let mut log: FirmwareSlots = zeroed();
    log.active = 1;
    let [slot, ..] = &mut log.revisions;
    *slot = ascii(FIRMWARE);
    log.as_bytes().to_vec()
}

fn effects_page() -> Vec<u8> {
    let mut log: CommandEffects = zeroed();
    let known = [
        admin::DELETE_IO_SQ,
        admin::CREATE_IO_SQ,
        admin::GET_LOG_PAGE,
        admin::DELETE_IO_CQ,
        admin::CREATE_IO_CQ,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT_REQUEST,
        admin::DOORBELL_BUFFER_CONFIG,
    ];
    for opcode in known {
        if let Some(effects) = log.admin.get_mut(usize::from(opcode)) {
            *effects = EFFECT_SUPPORTED.into();
        }
    }
    for (opcode, more) in [
        (io::FLUSH, 0),
        (io::WRITE, EFFECT_BLOCKS),
        (io::READ, 0),
        (io::COMPARE, 0),
        (io::WRITE_ZEROES, EFFECT_BLOCKS),
        (io::DATASET_MANAGEMENT, EFFECT_BLOCKS),
    ] {
        if let Some(effects) = log.io.get_mut(usize::from(opcode)) {
            *effects = (EFFECT_SUPPORTED | more).into();
        }
    }
    log.as_bytes().to_vec()
}
