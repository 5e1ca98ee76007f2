// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cached translation for a device behind the SMMU, invalidated by the guest's commands.
//!
//! Stream table entries and context descriptors are cached by stream and substream, translations in the IOTLB.
//! Invalid entries are never cached (IHI 0070 §3.21.3 allows it, but then a guest has to invalidate entries that it
//! makes valid). The owner applies every CMD_CFGI_* and CMD_TLBI_* in order, and calls `flush` when it may have
//! missed some. The caches are bounded; a configuration cache that is full is emptied.

use crate::addr::StreamId;
use crate::command::{self, Action, ConfigurationInvalidation};
use crate::memory::Memory;
use crate::model::Model;
use crate::spec::commands::Command;
use crate::spec::events::{EventRecord, InputAccess, Requester};
use crate::tlb::Iotlb;
use crate::translate::context::{self, Context, Selection};
use crate::translate::stream::{self, Stage1Stream, StreamAction};
use crate::translate::walk;
use crate::translate::{Fault, Registers, Translation, untranslated};
use std::collections::HashMap;

/// Translations kept per engine: with 4 KiB pages, 16 MiB of buffers in flight.
const IOTLB_CAPACITY: usize = 4096;
/// Streams or contexts kept per engine: more than one device has functions or queues.
const CONFIGURATION_CAPACITY: usize = 1024;

/// The translation of one SMMU for the devices of one process.
#[derive(Clone, Debug)]
pub struct Engine {
    model: Model,
    streams: HashMap<StreamId, StreamAction>,
    /// By stream and index in its CD table.
    contexts: HashMap<(StreamId, u32), Context>,
    iotlb: Iotlb,
}

impl Engine {
    /// Empty caches.
    pub fn new(model: Model) -> Engine {
        Engine { model, streams: HashMap::new(), contexts: HashMap::new(), iotlb: Iotlb::new(IOTLB_CAPACITY) }
    }

    /// Translates a transaction as an SMMU of this model and state does.
    ///
    /// # Errors
    /// The event that the transaction raises, or none for a silent abort.
    pub fn translate(
        &mut self,
        registers: &Registers,
        memory: &(impl Memory + ?Sized),
        requester: Requester,
        access: InputAccess,
    ) -> Result<Translation, Fault> {
        if !registers.cr0.smmuen() {
            // GBPA governs, substream or not; an address too large is not recorded (§3.4, §6.3.9.6).
            let allowed = !registers.gbpa.abort();
            return untranslated(&self.model, access.address).filter(|_| allowed).ok_or(Fault::SILENT);
        }
        let model = self.model;
        let bypass = || {
            let too_large = Fault::recorded(EventRecord::f_addr_size(requester, access));
            untranslated(&model, access.address).ok_or(too_large)
        };
        let stream = match self.stream(registers, memory, requester)? {
            StreamAction::Abort => return Err(Fault::SILENT),
            StreamAction::Bypass => {
                return match requester.substream {
                    // A substream needs stage 1 (§7.3.9).
                    Some(substream) => {
                        Err(Fault::recorded(EventRecord::c_bad_substreamid(requester.stream, substream)))
                    }
                    None => bypass(),
                };
            }
            StreamAction::Stage1(stream) => stream,
        };
        self.translate_stage1(&stream, memory, requester, access)
    }

    /// As `translate`, with the checked stream table entry given: for callers that look it up elsewhere.
    ///
    /// # Errors
    /// As [`Self::translate`], but for the events of the stream table.
    pub fn translate_stage1(
        &mut self,
        stream: &Stage1Stream,
        memory: &(impl Memory + ?Sized),
        requester: Requester,
        access: InputAccess,
    ) -> Result<Translation, Fault> {
        let index = match context::select(stream, requester)? {
            Selection::Bypass => {
                let too_large = Fault::recorded(EventRecord::f_addr_size(requester, access));
                return untranslated(&self.model, access.address).ok_or(too_large);
            }
            Selection::Context(index) => index,
        };
        let context = match self.contexts.get(&(requester.stream, index)) {
            Some(context) => *context,
            None => {
                let cd = context::lookup(&self.model, memory, stream, index, requester)?;
                let context = context::check(&self.model, &cd, requester)?;
                keep(&mut self.contexts, (requester.stream, index), context);
                context
            }
        };
        let fault = |fault: walk::WalkFault| fault.fault(&context, requester, access);
        let half = walk::half(&context, access.address).map_err(fault)?;
        let leaf = match self.iotlb.lookup(context.asid, access.address) {
            Some(leaf) => *leaf,
            None => {
                let leaf = walk::walk(memory, &context, half, access.address).map_err(fault)?;
                self.iotlb.insert(context.asid, access.address, leaf);
                leaf
            }
        };
        if leaf.permits(&context, access) {
            Ok(leaf.translate(access.address))
        } else {
            Err(fault(walk::WalkFault::Permission))
        }
    }

    fn stream(
        &mut self,
        registers: &Registers,
        memory: &(impl Memory + ?Sized),
        requester: Requester,
    ) -> Result<StreamAction, Fault> {
        if let Some(action) = self.streams.get(&requester.stream) {
            return Ok(*action);
        }
        let action = stream::action(&self.model, registers, memory, requester)?;
        keep(&mut self.streams, requester.stream, action);
        Ok(action)
    }

    /// Applies a command of the Command queue. Commands that are not about caches, and illegal ones, which
    /// the queue has refused, change nothing.
    pub fn apply(&mut self, command: &Command) {
        match command::decode(&self.model, command) {
            Ok(Action::Configuration(invalidation)) => self.invalidate_configuration(invalidation),
            Ok(Action::Translation(invalidation)) => self.iotlb.invalidate(&invalidation),
            Ok(Action::Hint | Action::Sync(_)) | Err(command::Illegal) => {}
        }
    }

    fn invalidate_configuration(&mut self, invalidation: ConfigurationInvalidation) {
        match invalidation {
            ConfigurationInvalidation::Streams(streams) => {
                self.streams.retain(|stream, _| !streams.contains(*stream));
                self.contexts.retain(|(stream, _), _| !streams.contains(*stream));
            }
            ConfigurationInvalidation::Context(stream, substream) => {
                self.contexts.remove(&(stream, substream.0));
            }
            ConfigurationInvalidation::Contexts(stream) => {
                self.contexts.retain(|(cached, _), _| *cached != stream);
            }
        }
    }

    /// Empties all caches.
    pub fn flush(&mut self) {
        self.streams.clear();
        self.contexts.clear();
        self.iotlb.flush();
    }

    /// How many translations are cached.
    pub fn cached_translations(&self) -> usize {
        self.iotlb.len()
    }
}

fn keep<K: core::hash::Hash + Eq, V>(cache: &mut HashMap<K, V>, key: K, value: V) {
    if cache.len() >= CONFIGURATION_CAPACITY {
        cache.clear();
    }
    cache.insert(key, value);
}
