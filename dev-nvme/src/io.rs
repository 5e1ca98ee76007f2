// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NVM commands, NVMe 1.4 section 6: checked against the namespace, then moved between host and medium.
//!
//! Runs without the controller's lock, on any thread. The length of everything is known and bounded (`MDTS`, or 256
//! ranges) before the first byte moves.

mod buffer;

use zerocopy::FromBytes;

pub use buffer::Buffer;

use crate::controller::{MDTS, Moved, Outcome};
use crate::dma::{HostMemory, Loan};
use crate::identity::Identity;
use crate::media::Media;
use crate::prp::{self, PAGE_LEN, Segment};
use crate::spec::command::{Command, DatasetRange, NSID_ALL, io};
use crate::spec::status::Status;

/// The longest transfer in bytes.
const TRANSFER_LEN_MAX: u64 = PAGE_LEN << MDTS;

/// Bytes per read of the image: below the size of an L2 cache.
const PIECE_LEN: usize = 128 << 10;

/// The only namespace.
const NSID: u32 = 1;

/// What commands are executed with.
pub struct Io<'a> {
    /// The namespace.
    pub identity: &'a Identity,
    /// Its blocks.
    pub media: &'a dyn Media,
    /// The host's memory.
    pub memory: &'a dyn HostMemory,
    /// Whether a write may complete before it is on the medium.
    pub write_cache: bool,
    /// Buffer for the data of one command.
    pub buffer: &'a mut Buffer,
}

/// The status for a failure of the medium.
enum Failed {
    Refused(Status),
    Media(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// A result of [`Io::execute`] or [`Io::execute_at_once`].
pub struct Executed {
    /// For the completion.
    pub outcome: Outcome,
    /// The image failed, whatever the status says.
    pub media_failed: bool,
}

impl Io<'_> {
    /// Executes one command.
    pub fn execute(&mut self, command: &Command) -> Executed {
        let result = self.dispatch(command);
        executed(command, result)
    }

    /// Executes a read that does not block. `None`: it would block, or is another command; nothing was done that must
    /// not be repeated.
    pub fn execute_at_once(&mut self, command: &Command) -> Option<Executed> {
        if command.opcode != io::READ || command.nsid.get() != NSID || command.uses_what_is_not_offered() {
            return None;
        }
        let (offset, len) = self.transfer(command).ok()?;
        let segments = prp::segments(self.memory, command.prp1.get(), command.prp2.get(), len).ok()?;
        let mut read = Ok(false);
        let loan = Loan { written: true, waits: false };
        self.memory.lend(&segments, loan, &mut |memory| read = self.media.read_at_once(offset, memory));
        // An error here will recur when a worker repeats it, and is reported then.
        let moved = Moved { read: command.block_count(), written: 0 };
        read.is_ok_and(|read| read).then(|| executed(command, Ok(moved)))
    }

    fn dispatch(&mut self, command: &Command) -> Result<Moved, Failed> {
        if command.uses_what_is_not_offered() {
            return Err(Status::INVALID_FIELD.into());
        }
        let nsid = command.nsid.get();
        let all = command.opcode == io::FLUSH && nsid == NSID_ALL;
        if nsid != NSID && !all {
            return Err(Status::INVALID_NAMESPACE.into());
        }
        if self.identity.read_only && command.changes_blocks() {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.into());
        }
        match command.opcode {
            io::FLUSH => self.flush(),
            io::WRITE => self.write(command),
            io::READ => self.read(command),
            io::COMPARE => self.compare(command),
            io::WRITE_ZEROES => self.write_zeroes(command),
            io::DATASET_MANAGEMENT => self.dataset_management(command),
            _ => Err(Status::INVALID_OPCODE.into()),
        }
    }

    fn flush(&self) -> Result<Moved, Failed> {
        self.media.flush().map_err(|_| Failed::Media(Status::WRITE_FAULT))?;
        Ok(Moved::default())
    }

    fn read(&mut self, command: &Command) -> Result<Moved, Failed> {
        let (offset, len) = self.transfer(command)?;
        let segments = prp::segments(self.memory, command.prp1.get(), command.prp2.get(), len)?;
        let mut lent = Ok(());
        let loan = Loan { written: true, waits: true };
        if self.memory.lend(&segments, loan, &mut |memory| lent = self.media.read_to(offset, memory)) {
            lent.map_err(|_| Failed::Media(Status::UNRECOVERED_READ_ERROR))?;
            return Ok(Moved { read: command.block_count(), written: 0 });
        }
        let mut offset = offset;
        for segment in &*segments {
            // In pieces that are still in the cache when they are copied.
            let mut at = segment.iova;
            let mut left = segment.len;
            while left > 0 {
                let piece = self.buffer.first(left.min(PIECE_LEN));
                self.media
                    .read_at(offset, piece)
                    .map_err(|_| Failed::Media(Status::UNRECOVERED_READ_ERROR))?;
                self.memory.write(at, piece).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
                left -= piece.len();
                at = at.wrapping_add(piece.len() as u64);
                offset += piece.len() as u64;
            }
        }
        Ok(Moved { read: command.block_count(), written: 0 })
    }

    fn write(&mut self, command: &Command) -> Result<Moved, Failed> {
        let (offset, len) = self.transfer(command)?;
        let segments = prp::segments(self.memory, command.prp1.get(), command.prp2.get(), len)?;
        let mut written = Ok(());
        let loan = Loan { written: false, waits: true };
        if !self.memory.lend(&segments, loan, &mut |memory| written = self.media.write_from(offset, memory)) {
            self.gather(&segments, len)?;
            written = self.media.write_at(offset, self.buffer.first(len));
        }
        written.map_err(|error| write_failed(&error))?;
        self.settle(command)?;
        Ok(Moved { read: 0, written: command.block_count() })
    }

    fn compare(&mut self, command: &Command) -> Result<Moved, Failed> {
        let (offset, len) = self.transfer(command)?;
        self.gather_all(command, len)?;
        let mut held = vec![0; len];
        self.media.read_at(offset, &mut held).map_err(|_| Failed::Media(Status::UNRECOVERED_READ_ERROR))?;
        if self.buffer.first(len) == held {
            Ok(Moved { read: command.block_count(), written: 0 })
        } else {
            Err(Status::COMPARE_FAILURE.into())
        }
    }

    fn write_zeroes(&mut self, command: &Command) -> Result<Moved, Failed> {
        let (slba, count) = (command.slba(), u64::from(command.block_count()));
        self.check_range(slba, count)?;
        let (offset, len) = (self.identity.bytes(slba), self.identity.bytes(count));
        self.media.zero(offset, len, command.deallocate()).map_err(|error| write_failed(&error))?;
        self.settle(command)?;
        Ok(Moved { read: 0, written: command.block_count() })
    }

    /// Section 6.7. Deallocation is a hint, followed if the image's file system supports it; other hints are ignored.
    /// Each of 256 ranges may be the whole namespace, so none is zeroed by writing.
    fn dataset_management(&mut self, command: &Command) -> Result<Moved, Failed> {
        let count = usize::try_from(command.cdw10.get() & 0xff).unwrap_or(0) + 1;
        let len = count * size_of::<DatasetRange>();
        self.gather_all(command, len)?;
        let bytes = self.buffer.first(len);
        let ranges = <[DatasetRange]>::ref_from_bytes(bytes).map_err(|_| Status::INTERNAL_ERROR)?.to_vec();
        // All are checked before the first is deallocated.
        for range in ranges.iter().filter(|range| range.block_count.get() > 0) {
            self.check_range(range.slba.get(), range.block_count.get().into())?;
        }
        if !command.discards() {
            return Ok(Moved::default());
        }
        for range in ranges.iter().filter(|range| range.block_count.get() > 0) {
            let offset = self.identity.bytes(range.slba.get());
            let len = self.identity.bytes(range.block_count.get().into());
            self.media.release(offset, len).map_err(|error| write_failed(&error))?;
        }
        Ok(Moved::default())
    }

    /// Offset and length in bytes of a command with data.
    fn transfer(&self, command: &Command) -> Result<(u64, usize), Status> {
        let count = u64::from(command.block_count());
        let len = self.identity.bytes(count);
        if len > TRANSFER_LEN_MAX {
            return Err(Status::INVALID_FIELD);
        }
        self.check_range(command.slba(), count)?;
        let len = usize::try_from(len).map_err(|_| Status::INTERNAL_ERROR)?;
        Ok((self.identity.bytes(command.slba()), len))
    }

    fn check_range(&self, slba: u64, count: u64) -> Result<(), Status> {
        let end = slba.checked_add(count).filter(|end| *end <= self.identity.blocks);
        end.map(drop).ok_or(Status::LBA_OUT_OF_RANGE)
    }

    /// Copies all data of a command into the buffer.
    fn gather_all(&mut self, command: &Command, len: usize) -> Result<(), Status> {
        let segments = prp::segments(self.memory, command.prp1.get(), command.prp2.get(), len)?;
        self.gather(&segments, len)
    }

    /// Copies the host's data into the buffer.
    fn gather(&mut self, segments: &[Segment], len: usize) -> Result<(), Status> {
        let mut rest = self.buffer.first(len);
        for segment in segments {
            let Some((piece, behind)) = rest.split_at_mut_checked(segment.len) else { break };
            self.memory.read(segment.iova, piece).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            rest = behind;
        }
        Ok(())
    }

    /// Whether a command is a write that completes once the data is in the page cache.
    pub fn is_cached_write(&self, command: &Command) -> bool {
        command.opcode == io::WRITE && self.is_cached(command)
    }

    fn is_cached(&self, command: &Command) -> bool {
        self.write_cache && !command.force_unit_access()
    }

    /// Flushes after a write with FUA, or without a volatile write cache.
    fn settle(&self, command: &Command) -> Result<(), Failed> {
        if self.is_cached(command) {
            return Ok(());
        }
        self.flush().map(drop)
    }
}

/// The status of a command.
fn executed(command: &Command, result: Result<Moved, Failed>) -> Executed {
    let media_failed = matches!(result, Err(Failed::Media(_)));
    let (status, moved) = match result {
        Ok(moved) => (Status::SUCCESS, moved),
        Err(Failed::Refused(status) | Failed::Media(status)) => (status, Moved::default()),
    };
    let (nsid, lba) = (command.nsid.get(), command.slba());
    Executed { outcome: Outcome { status, dw0: 0, moved, nsid, lba }, media_failed }
}

fn write_failed(error: &std::io::Error) -> Failed {
    Failed::Media(match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Status::CAPACITY_EXCEEDED,
        _ => Status::WRITE_FAULT,
    })
}
