// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Side effects that the model requests: interrupts to pulse, and whether commands are pending.
//!
//! Collected while a request is handled, acted upon after the changed registers are published: a guest
//! that takes an interrupt must find the registers it announces (IHI 0070 §3.18). Interrupts are edges,
//! so several of one source coalesce into one.

/// The wired interrupt outputs of §3.18.2 that this SMMU has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Records were added to the Event queue.
    EventQueue,
    /// A global error became active.
    GlobalError,
    /// A CMD_SYNC with SIG_IRQ completed.
    CommandSync,
}

/// Requested effects of one request or one step. Bounded by its type: at most one pulse of each source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    event_queue: bool,
    global_error: bool,
    command_sync: bool,
}

impl Effects {
    /// Asks for a pulse.
    pub fn raise(&mut self, interrupt: Interrupt) {
        match interrupt {
            Interrupt::EventQueue => self.event_queue = true,
            Interrupt::GlobalError => self.global_error = true,
            Interrupt::CommandSync => self.command_sync = true,
        }
    }

    /// The pulses asked for.
    pub fn interrupts(&self) -> impl Iterator<Item = Interrupt> {
        let Effects { event_queue, global_error, command_sync } = *self;
        [
            (event_queue, Interrupt::EventQueue),
            (global_error, Interrupt::GlobalError),
            (command_sync, Interrupt::CommandSync),
        ]
        .into_iter()
        .filter_map(|(wanted, interrupt)| wanted.then_some(interrupt))
    }
}
