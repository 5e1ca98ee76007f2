// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model's interface to the devices behind this SMMU: streams whose configuration may have changed, and
//! invalidations.
//!
//! The model never holds an attachment. It says which StreamIDs may have changed (a configuration
//! invalidation, SMMUEN, GBPA, the stream table, reset) and passes cached-translation invalidations on;
//! the sink re-evaluates each stream it knows and attaches abort, bypass or stage 1. A lookup that fails
//! attaches abort: it never leaves the old attachment. CMD_SYNC is consumed only after `sync` said `Done`:
//! then every invalidation before it has been answered by every device, or the device's DMA is known to have ended.
//! Calls come in command order, from the thread that steps the queue.

use crate::memory::GuestMemory;
use crate::smmu::Smmu;
use smmu_arch::command::StreamRange;
use smmu_arch::spec::commands::Command;
use smmu_arch::spec::events::{EventRecord, Requester};
use smmu_arch::spec::ste::{DefaultSubstream, Ste, SteQw0, SteQw1, StreamConfig};
use smmu_arch::translate::stream::{self, Stage1Stream, StreamAction};
use smmu_arch::{Attachment, StreamId};

impl Smmu {
    /// What a stream is to be attached to now. A lookup that fails, for whatever reason, is abort: the event
    /// it would raise is recorded when a transaction meets it, not here (IHI 0070 §7.2).
    pub fn attachment(&self, memory: &impl GuestMemory, stream: StreamId) -> Attachment {
        let registers = self.registers.translation();
        if !registers.cr0.smmuen() {
            return if registers.gbpa.abort() { Attachment::Abort } else { Attachment::Bypass };
        }
        let (model, who) = (self.registers.model(), Requester { stream, substream: None });
        let Ok(ste) = stream::lookup(model, &registers, memory, who) else { return Attachment::Abort };
        match stream::check(model, &ste, who) {
            Ok(StreamAction::Bypass) => Attachment::Bypass,
            Ok(StreamAction::Stage1(stage1)) => Attachment::Stage1(nested_words(&ste, &stage1)),
            Ok(StreamAction::Abort) | Err(_) => Attachment::Abort,
        }
    }
}

impl Smmu {
    /// The event of a transaction that met a stream attached to abort: what looking its entry up again finds wrong.
    /// None if the entry itself asks for abort, or has changed since.
    pub fn abort_event(&self, memory: &impl GuestMemory, stream: StreamId) -> Option<EventRecord> {
        let registers = self.registers.translation();
        if !registers.cr0.smmuen() {
            return None;
        }
        let who = Requester { stream, substream: None };
        stream::action(self.registers.model(), &registers, memory, who).err()?.event
    }
}

/// A checked entry without the fields that are ignored here: reserved ones, those of absent features (ATS,
/// stage 2, overrides), and those of substreams when there are none.
fn nested_words(ste: &Ste, stage1: &Stage1Stream) -> [u64; 2] {
    let Stage1Stream { context_table: _, format, cd_max, default_substream } = *stage1;
    let default_substream = if cd_max == 0 { DefaultSubstream::Terminate } else { default_substream };
    let qw0 = SteQw0::new()
        .with_v(true)
        .with_config(StreamConfig::Stage1)
        .with_s1fmt(format)
        .with_s1contextptr_51_6(ste.qw0.s1contextptr_51_6())
        .with_s1cdmax(cd_max);
    let qw1 = SteQw1::new()
        .with_s1dss(default_substream)
        .with_s1cir(ste.qw1.s1cir())
        .with_s1cor(ste.qw1.s1cor())
        .with_s1csh(ste.qw1.s1csh());
    [qw0.into_bits(), qw1.into_bits()]
}

/// Whether all earlier requests have been answered by the devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncState {
    /// Yes: the CMD_SYNC may be consumed.
    Done,
    /// Not yet: to be called again after the next answer.
    Pending,
}

/// The devices behind the SMMU, as the model addresses them.
pub trait Stage1Sink {
    /// The configuration of these streams may have changed: look it up again.
    fn reevaluate(&mut self, streams: StreamRange);
    /// Drop cached context descriptors, translations or ATC entries as this command says.
    fn invalidate(&mut self, command: &Command);
    /// Whether all of the above has taken effect everywhere.
    fn sync(&mut self) -> SyncState;
}

/// No device is behind this SMMU: nothing is cached, so everything has always taken effect.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDevices;

impl Stage1Sink for NoDevices {
    fn reevaluate(&mut self, _streams: StreamRange) {}

    fn invalidate(&mut self, _command: &Command) {}

    fn sync(&mut self) -> SyncState {
        SyncState::Done
    }
}
