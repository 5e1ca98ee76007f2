// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between the controller and its saved state. Both directions destructure every field; each one left out says why.

use super::events::{AsyncEvent, Events, REQUESTS_MAX};
use super::logs::ERRORS_MAX;
use super::registers::{sanitise_aqa, sanitise_cc};
use super::{Controller, Counters, ErrorLog, Features, Queues, Registers, Shadow, Unkept, get, set};
use crate::identity::Identity;
use crate::queue::{Completed, CompletionQueue, ENTRIES_MAX, QUEUES_MAX, SubmissionQueue};
use crate::saved::{
    CompletedV1, CompletionQueueV1, CountersV1, FeaturesV1, NamespaceV1, NvmeV1, NvmeV2, ShadowV2,
    StateError, SubmissionQueueV1,
};
use crate::spec::registers::{Aqa, Cc, Csts};
use crate::spec::status::Status;

/// Completions held back by one queue: all commands that can have been in flight, and events.
const HELD_MAX: usize = 4096;

impl Controller {
    /// The state of an idle controller. `config` and `msix` are the function's own.
    #[must_use]
    pub fn save(&self, config: Vec<u8>, msix: Vec<u8>) -> NvmeV2 {
        let Self {
            identity,
            registers: Registers { cc, csts, aqa, asq, acq },
            submission,
            completion,
            features,
            events: Events { requests, pending, masked },
            counters,
            errors: ErrorLog { count, entries },
            shutdown_wanted,
            shadow,
            // The session's.
            shadow_offered: _,
            // Counted from the process's start; no job of an old epoch is left when idle.
            epoch: _,
            // Nothing, when idle.
            in_flight: _,
            resetting: _,
            full_reset: _,
            // Follows from the migration state.
            paused: _,
            // The round-robin position is not guest-visible.
            last_served: _,
            // Written, when idle.
            unposted: _,
            // What a checkpoint is for.
            unkept: _,
            // Not after it has run.
            is_revived: _,
        } = self;
        let v1 = NvmeV1 {
            namespace: save_namespace(identity),
            config,
            msix,
            cc: (*cc).into(),
            csts: (*csts).into(),
            aqa: (*aqa).into(),
            asq: *asq,
            acq: *acq,
            shutdown_wanted: *shutdown_wanted,
            submission: numbered(submission).map(|(id, queue)| save_submission(id, queue)).collect(),
            completion: numbered(completion).map(|(id, queue)| save_completion(id, queue)).collect(),
            features: save_features(features),
            event_requests: requests.clone(),
            events_pending: pending.iter().map(|event| event.0).collect(),
            events_masked: *masked,
            counters: save_counters(counters),
            error_count: *count,
            errors: entries.iter().map(|entry| entry.to_vec()).collect(),
        };
        // A restored controller polls in any case.
        let shadow = shadow.as_ref().map(|Shadow { doorbells, event_indices, due: _, looking: _ }| {
            ShadowV2 { doorbells: *doorbells, event_indices: *event_indices }
        });
        NvmeV2 { v1, shadow }
    }

    /// A controller with this state, paused and idle. The caller restores configuration space and MSI-X table.
    ///
    /// # Errors
    /// If it is of another disk, or invalid.
    pub fn restore(identity: Identity, state: &NvmeV2) -> Result<Self, StateError> {
        let NvmeV2 { v1, shadow } = state;
        let NvmeV1 {
            namespace,
            config: _,
            msix: _,
            cc,
            csts,
            aqa,
            asq,
            acq,
            shutdown_wanted,
            submission,
            completion,
            features,
            event_requests,
            events_pending,
            events_masked,
            counters,
            error_count,
            errors,
        } = v1;
        let expected = save_namespace(&identity);
        if *namespace != expected {
            let (found, expected) = (format!("{namespace:?}"), format!("{expected:?}"));
            return Err(StateError::OtherNamespace { found, expected });
        }
        let registers = Registers {
            cc: sanitise_cc(Cc::from(*cc)),
            csts: Csts::from(*csts & 0xf),
            aqa: sanitise_aqa(Aqa::from(*aqa)),
            asq: asq & !0xfff,
            acq: acq & !0xfff,
        };
        let completion = restore_completion(completion)?;
        let submission = restore_submission(submission, &completion)?;
        if registers.csts.rdy() && (get(&submission, 0).is_none() || get(&completion, 0).is_none()) {
            return Err(StateError::Impossible { what: "a ready controller without admin queues", found: 0 });
        }
        check("event requests", event_requests.len(), REQUESTS_MAX)?;
        check("pending events", events_pending.len(), 16)?;
        check("error log entries", errors.len(), ERRORS_MAX)?;
        let entries: Option<_> =
            errors.iter().map(|entry| <[u8; 64]>::try_from(entry.as_slice()).ok()).collect();
        let entries = entries
            .ok_or(StateError::Impossible { what: "an error log entry of another length", found: 0 })?;
        let shadow = shadow.as_ref().map(restore_shadow).transpose()?;
        let mut restored = Self {
            registers,
            submission,
            completion,
            features: restore_features(features),
            events: Events {
                requests: event_requests.clone(),
                pending: events_pending.iter().map(|event| AsyncEvent(*event)).collect(),
                masked: *events_masked,
            },
            counters: restore_counters(counters),
            errors: ErrorLog { count: *error_count, entries },
            shutdown_wanted: *shutdown_wanted,
            paused: true,
            unkept: Unkept { control: true, is_reset: true, ..Unkept::default() },
            ..Self::new(identity)
        };
        if let Some(shadow) = shadow {
            restored.watch(shadow);
        }
        Ok(restored)
    }

    /// Replaces another controller whose jobs may still return results: they will be of an old epoch.
    pub fn succeed(mut self, before: &Self) -> Self {
        self.epoch = before.epoch + 1;
        self.shadow_offered = before.shadow_offered;
        self
    }
}

fn numbered<T>(queues: &Queues<T>) -> impl Iterator<Item = (u16, &T)> {
    (0..).zip(queues).filter_map(|(id, queue)| queue.as_ref().map(|queue| (id, queue)))
}

fn check(what: &'static str, found: usize, max: usize) -> Result<(), StateError> {
    let impossible = StateError::Impossible { what, found: u64::try_from(found).unwrap_or(u64::MAX) };
    if found <= max { Ok(()) } else { Err(impossible) }
}

fn save_namespace(identity: &Identity) -> NamespaceV1 {
    // The UUID follows from the serial number. Whether it is read-only is configured where it is restored.
    let Identity { serial, block_shift, blocks, uuid: _, read_only: _ } = identity;
    NamespaceV1 { serial: serial.clone(), block_shift: *block_shift, blocks: *blocks }
}

fn restore_shadow(shadow: &ShadowV2) -> Result<Shadow, StateError> {
    let ShadowV2 { doorbells, event_indices } = *shadow;
    for page in [doorbells, event_indices] {
        if page == 0 || !page.is_multiple_of(crate::prp::PAGE_LEN) {
            return Err(StateError::Impossible { what: "a page of doorbells", found: page });
        }
    }
    Ok(Shadow::new(doorbells, event_indices))
}

fn save_submission(id: u16, queue: &SubmissionQueue) -> SubmissionQueueV1 {
    // No job is in flight when idle, so no deletion is pending either. Last values of shadow doorbells are read
    // again.
    let SubmissionQueue {
        base,
        size,
        head,
        // Counted from any multiple of the size.
        fetched: _,
        tail,
        seen: _,
        cqid,
        fetching: _,
        jobs: _,
        deletion: _,
    } = *queue;
    SubmissionQueueV1 { id, base, size, head, tail, cqid }
}

fn save_completion(id: u16, queue: &CompletionQueue) -> CompletionQueueV1 {
    // `placed` follows from tail and phase.
    let CompletionQueue { base, size, head, seen: _, tail, placed: _, phase, vector, held } = queue;
    let held = held.iter().map(|completed| {
        // No command is in a journal when idle.
        let Completed { dw0, sqid, cid, status, slot: _ } = *completed;
        CompletedV1 { dw0, sqid, cid, status: status.bits() }
    });
    let held = held.collect();
    CompletionQueueV1 {
        id,
        base: *base,
        size: *size,
        head: *head,
        tail: *tail,
        phase: *phase,
        vector: *vector,
        held,
    }
}

fn queue_shape(id: u16, base: u64, size: u32, head: u32, tail: u32) -> Result<(), StateError> {
    let impossible = |what, found| Err(StateError::Impossible { what, found });
    if id > QUEUES_MAX {
        return impossible("a queue identifier", id.into());
    }
    // Admin queues may be larger than I/O queues.
    let size_max = if id == 0 { 4096 } else { ENTRIES_MAX };
    if !(2..=size_max).contains(&size) {
        return impossible("a queue size", size.into());
    }
    if !base.is_multiple_of(crate::prp::PAGE_LEN) {
        return impossible("a queue address", base);
    }
    if head >= size || tail >= size {
        return impossible("a queue index", head.max(tail).into());
    }
    Ok(())
}

fn restore_completion(saved: &[CompletionQueueV1]) -> Result<Queues<CompletionQueue>, StateError> {
    let mut queues = Queues::default();
    for queue in saved {
        let CompletionQueueV1 { id, base, size, head, tail, phase, vector, held } = queue;
        queue_shape(*id, *base, *size, *head, *tail)?;
        check("completions held back", held.len(), HELD_MAX)?;
        check("an interrupt vector", vector.unwrap_or(0).into(), QUEUES_MAX.into())?;
        let held = held.iter().map(|completed| {
            let CompletedV1 { dw0, sqid, cid, status } = *completed;
            Completed { dw0, sqid, cid, status: Status::from_bits(status), slot: None }
        });
        let held = held.collect();
        let (base, size, head, tail, phase, vector) = (*base, *size, *head, *tail, *phase, *vector);
        let placed = u64::from(tail) + if phase { 0 } else { u64::from(size) };
        let queue = CompletionQueue { base, size, head, seen: head, tail, placed, phase, vector, held };
        set(&mut queues, *id, Some(queue));
    }
    Ok(queues)
}

fn restore_submission(
    saved: &[SubmissionQueueV1],
    completion: &Queues<CompletionQueue>,
) -> Result<Queues<SubmissionQueue>, StateError> {
    let mut queues = Queues::default();
    for queue in saved {
        let SubmissionQueueV1 { id, base, size, head, tail, cqid } = *queue;
        queue_shape(id, base, size, head, tail)?;
        if get(completion, cqid).is_none() || (id == 0) != (cqid == 0) {
            return Err(StateError::Impossible {
                what: "a submission queue's completion queue",
                found: cqid.into(),
            });
        }
        let fetched = head.into();
        let queue = SubmissionQueue { head, fetched, tail, ..SubmissionQueue::new(base, size, cqid) };
        set(&mut queues, id, Some(queue));
    }
    Ok(queues)
}

fn save_features(features: &Features) -> FeaturesV1 {
    let Features {
        arbitration,
        temperature_over,
        temperature_under,
        error_recovery,
        write_cache,
        coalescing,
        coalescing_disabled,
        write_atomicity,
        event_configuration,
    } = *features;
    FeaturesV1 {
        arbitration,
        temperature_over,
        temperature_under,
        error_recovery,
        write_cache,
        coalescing,
        coalescing_disabled,
        write_atomicity,
        event_configuration,
    }
}

fn restore_features(features: &FeaturesV1) -> Features {
    let FeaturesV1 {
        arbitration,
        temperature_over,
        temperature_under,
        error_recovery,
        write_cache,
        coalescing,
        coalescing_disabled,
        write_atomicity,
        event_configuration,
    } = *features;
    Features {
        arbitration,
        temperature_over,
        temperature_under,
        error_recovery,
        write_cache,
        coalescing,
        coalescing_disabled,
        write_atomicity,
        event_configuration,
    }
}

fn save_counters(counters: &Counters) -> CountersV1 {
    let Counters { bytes_read, bytes_written, reads, writes, media_errors, power_cycles, unsafe_shutdowns } =
        *counters;
    CountersV1 { bytes_read, bytes_written, reads, writes, media_errors, power_cycles, unsafe_shutdowns }
}

fn restore_counters(counters: &CountersV1) -> Counters {
    let CountersV1 { bytes_read, bytes_written, reads, writes, media_errors, power_cycles, unsafe_shutdowns } =
        *counters;
    Counters { bytes_read, bytes_written, reads, writes, media_errors, power_cycles, unsafe_shutdowns }
}
