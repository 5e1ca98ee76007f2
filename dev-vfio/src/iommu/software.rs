// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host IOMMU in software: the guest's stage 1 walked by `smmu-arch`, over guest RAM as stage 2.
//!
//! For devices whose DMA comes as messages. A transfer is done in pieces that translate alike, each translated and
//! copied within one call, so that whoever holds the lock around this value knows: when an invalidation has returned,
//! nothing is read or written through what it removed. Writes mark the process's dirty log page by page, by GPA. An
//! error in the guest's tables becomes an event record; an output address without RAM aborts the transfer without an
//! event, as a bus error does.

use ipc::addr::{Gpa, Iova, StreamId};
use ipc::protocol::stage1::{Attachment, Fault};
use ipc::shm::guest_memory::GuestMemory;
use smmu_arch::Model;
use smmu_arch::engine::Engine;
use smmu_arch::memory::{Abort, Memory};
use smmu_arch::spec::commands::{Command, Opcode};
use smmu_arch::spec::events::{EventRecord, InputAccess, Requester};
use smmu_arch::spec::ste::{Ste, SteQw0, SteQw1};
use smmu_arch::translate::stream::{self, Stage1Stream, StreamAction};
use smmu_arch::translate::{self, Translation, untranslated};
use zerocopy::transmute;

use super::fault_queue::{Entry, FaultQueue};
use super::{AttachError, HostIommu, Invalidated, STE_WORD0_ALLOWED, STE_WORD1_ALLOWED};

/// Faults that may wait: as many as the guest's own Event queue holds at most.
const FAULTS_MAX: usize = 4096;

/// The transfer was ended before its last byte; what there is to report stands in the fault queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminated;

/// Counters for `inspect` and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the device read.
    pub bytes_read: u64,
    /// Bytes that it wrote.
    pub bytes_written: u64,
    /// Transfers that were ended early.
    pub terminated: u64,
    /// Attachments made.
    pub attached: u64,
    /// Invalidations applied.
    pub invalidated: u64,
}

/// The stage 2 of a guest, and the stage 1 of one stream.
#[derive(Debug)]
pub struct SoftIommu {
    model: Model,
    engine: Engine,
    ram: GuestRam,
    stream: StreamId,
    attached: Attached,
    faults: FaultQueue,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    Abort,
    Bypass,
    Stage1(Stage1Stream),
}

#[derive(Clone, Debug)]
struct GuestRam(GuestMemory);

impl Memory for GuestRam {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        self.0.read(Gpa(address), bytes).map_err(|_| Abort)
    }
}

impl SoftIommu {
    /// Over the guest's RAM, for the device that the guest knows as `stream`; attached to abort.
    pub fn new(model: Model, ram: GuestMemory, stream: StreamId) -> SoftIommu {
        SoftIommu {
            model,
            engine: Engine::new(model),
            ram: GuestRam(ram),
            stream,
            attached: Attached::Abort,
            faults: FaultQueue::new(FAULTS_MAX),
            counters: Counters::default(),
        }
    }

    /// The device reads guest memory.
    ///
    /// # Errors
    /// If not all of it may be read; `bytes` is filled up to there.
    pub fn read(&mut self, iova: Iova, bytes: &mut [u8]) -> Result<(), Terminated> {
        let mut at = iova;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (gpa, len) = self.piece(at, rest.len(), true)?;
            let (piece, behind) = rest.split_at_mut(len);
            self.ram.0.read(gpa, piece).map_err(|_| self.terminate(None))?;
            self.counters.bytes_read += len as u64;
            at = advance(at, len);
            rest = behind;
        }
        Ok(())
    }

    /// The device writes guest memory.
    ///
    /// # Errors
    /// If not all of it may be written; it is written up to there.
    pub fn write(&mut self, iova: Iova, bytes: &[u8]) -> Result<(), Terminated> {
        let mut at = iova;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (gpa, len) = self.piece(at, rest.len(), false)?;
            let (piece, behind) = rest.split_at(len);
            self.ram.0.write(gpa, piece).map_err(|_| self.terminate(None))?;
            self.counters.bytes_written += len as u64;
            at = advance(at, len);
            rest = behind;
        }
        Ok(())
    }

    /// Translates the address of a 32-bit write, which an MSI is.
    ///
    /// # Errors
    /// If it may not be written.
    pub fn write_target(&mut self, iova: Iova) -> Result<Gpa, Terminated> {
        self.piece(iova, size_of::<u32>(), false).map(|(gpa, _)| gpa)
    }

    /// Counts of translations and faults, for `inspect`.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many translations are cached.
    pub fn cached_translations(&self) -> usize {
        self.engine.cached_translations()
    }

    /// Whether the stream's addresses are guest physical ones.
    pub fn is_bypassed(&self) -> bool {
        self.attached == Attached::Bypass
    }

    /// What the stream is attached to, for `inspect`.
    pub fn attached(&self) -> &'static str {
        match self.attached {
            Attached::Abort => "abort",
            Attached::Bypass => "bypass",
            Attached::Stage1(_) => "stage 1",
        }
    }

    /// The GPA of an address, and how many bytes from there on translate contiguously: at most `len`, at least one.
    fn piece(&mut self, iova: Iova, len: usize, read: bool) -> Result<(Gpa, usize), Terminated> {
        let Translation { address, span } = self.translate(iova, read).map_err(|fault| {
            let record = fault.map(|record: EventRecord| Fault::Record(transmute!(record)));
            self.terminate(record)
        })?;
        let len = usize::try_from(span).unwrap_or(usize::MAX).min(len).max(1);
        Ok((Gpa(address), len))
    }

    fn translate(&mut self, iova: Iova, read: bool) -> Result<Translation, Option<EventRecord>> {
        let who = Requester { stream: self.stream, substream: None };
        // A PCIe transaction without PASID is one of unprivileged data (IHI 0070 section 3.3.4).
        let access = InputAccess { address: iova.0, read, instruction: false, privileged: false };
        match self.attached {
            Attached::Abort => {
                self.faults.push(Fault::Aborted { stream: self.stream });
                Err(None)
            }
            Attached::Bypass => {
                let too_large = EventRecord::f_addr_size(who, access);
                untranslated(&self.model, iova.0).ok_or(Some(too_large))
            }
            Attached::Stage1(stage1) => self
                .engine
                .translate_stage1(&stage1, &self.ram, who, access)
                .map_err(|translate::Fault { event }| event),
        }
    }

    fn terminate(&mut self, fault: Option<Fault>) -> Terminated {
        self.counters.terminated += 1;
        if let Some(fault) = fault {
            self.faults.push(fault);
        }
        Terminated
    }

    /// What the kernel does with one command: see the reference of `IOMMU_HWPT_INVALIDATE`.
    fn apply(&mut self, [qw0, qw1]: [u64; 2]) -> bool {
        let command = Command { qw0, qw1 };
        let ours = command.stream_qw0().stream_id() == self.stream.0;
        match command.opcode() {
            Opcode::TlbiNsnhAll
            | Opcode::TlbiNhAll
            | Opcode::TlbiNhAsid
            | Opcode::TlbiNhVa
            | Opcode::TlbiNhVaa => self.engine.apply(&command),
            Opcode::CfgiCd | Opcode::CfgiCdAll if ours => self.engine.apply(&command),
            // Accepted without effect: a device without ATS caches no translations.
            Opcode::AtcInv if ours => {}
            _ => return false,
        }
        self.counters.invalidated += 1;
        true
    }
}

impl HostIommu for SoftIommu {
    fn attach(&mut self, stream: StreamId, to: Attachment) -> Result<(), AttachError> {
        if stream != self.stream {
            return Err(AttachError::Stream(stream));
        }
        self.attached = match to {
            Attachment::Abort => Attached::Abort,
            Attachment::Bypass => Attached::Bypass,
            Attachment::Stage1(words) => nested(&self.model, stream, words)?,
        };
        // Contexts were cached for the stream, not for what it is attached to; translations go along, so that the
        // order of an attachment and the invalidations around it does not matter.
        self.engine.flush();
        self.counters.attached += 1;
        Ok(())
    }

    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated {
        let done = commands.iter().take_while(|command| self.apply(**command)).count();
        Invalidated { done, refused: done < commands.len() }
    }

    fn next_fault(&mut self) -> Option<Entry> {
        self.faults.pop()
    }

    fn fault_count(&self) -> u64 {
        u64::try_from(self.faults.len()).unwrap_or(u64::MAX)
    }
}

/// The address behind a piece. One that ends with the address space has none: no piece follows it.
fn advance(at: Iova, len: usize) -> Iova {
    Iova(at.0.wrapping_add(len as u64))
}

/// What two words of a stream table entry ask for. V=0 is abort, as the kernel has it.
fn nested(model: &Model, stream: StreamId, words: [u64; 2]) -> Result<Attached, AttachError> {
    let [word0, word1] = words;
    let refused = AttachError::Words(words);
    if word0 & !STE_WORD0_ALLOWED != 0 || word1 & !STE_WORD1_ALLOWED != 0 {
        return Err(refused);
    }
    let (qw0, qw1) = (SteQw0::from_bits(word0), SteQw1::from_bits(word1));
    if !qw0.v() {
        return Ok(Attached::Abort);
    }
    let who = Requester { stream, substream: None };
    match stream::check(model, &Ste { qw0, qw1, rest: [0; 6] }, who) {
        Ok(StreamAction::Abort) => Ok(Attached::Abort),
        Ok(StreamAction::Bypass) => Ok(Attached::Bypass),
        Ok(StreamAction::Stage1(stage1)) => Ok(Attached::Stage1(stage1)),
        Err(_) => Err(refused),
    }
}
