// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Command queue: consumed in order, in steps of a stated size. IHI 0070 §4.1, §4.7.3, §7.1.
//!
//! A command is copied from guest memory when its turn comes, so one that software repaired after an
//! error is fetched again. A failing command stops the queue with CONS.RD at it, CONS.ERR saying why and
//! GERROR.CMDQ_ERR active; nothing is consumed until software acknowledges. A CMD_SYNC whose devices have
//! not all answered stops the step with CONS at it and nothing lost.

use crate::effects::{Effects, Interrupt};
use crate::memory::GuestMemory;
use crate::smmu::Smmu;
use crate::stream::{Stage1Sink, SyncState};
use smmu_arch::command::{self, Action, ConfigurationInvalidation};
use smmu_arch::memory;
use smmu_arch::spec::commands::{Command, ComplSignal};
use smmu_arch::spec::control::Gerror;
use smmu_arch::spec::tables::CommandError;

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing is left to do: the queue is empty, disabled, or stopped by an error.
    Idle,
    /// The budget ran out with commands waiting.
    More,
    /// A CMD_SYNC waits for the devices: step again when one has answered.
    AwaitSync,
}

enum Consumed {
    Yes,
    NotYet,
    Failed(CommandError),
}

impl Smmu {
    /// Whether a step would find a command to consume (§4.1.2).
    pub fn has_commands(&self) -> bool {
        let (queue, prod, cons) = self.registers.command_queue();
        self.registers.cr0().cmdqen()
            && !self.registers.active_errors().cmdq_err()
            && !queue.is_empty(prod, cons)
    }

    /// Consumes up to `budget` commands.
    pub fn step(
        &mut self,
        memory: &impl GuestMemory,
        sink: &mut impl Stage1Sink,
        effects: &mut Effects,
        budget: u32,
    ) -> Step {
        // Every turn consumes an entry, stops the queue or returns: at most `budget` turns.
        for _ in 0..budget {
            if !self.has_commands() {
                return Step::Idle;
            }
            let (queue, _, cons) = self.registers.command_queue();
            let consumed = match memory::fetch::<Command>(memory, queue.entry_address(cons)) {
                Ok(command) => self.execute(&command, sink, effects),
                Err(memory::Abort) => Consumed::Failed(CommandError::Abt),
            };
            match consumed {
                Consumed::Yes => {
                    self.counters.commands += 1;
                    self.registers.advance_cmdq_cons(queue.next(cons));
                }
                Consumed::NotYet => return Step::AwaitSync,
                Consumed::Failed(error) => {
                    self.counters.command_errors += 1;
                    // The reason is in place before the error can be seen (§7.1).
                    self.registers.set_command_error(error);
                    self.activate(Gerror::new().with_cmdq_err(true), effects);
                    return Step::Idle;
                }
            }
        }
        if self.has_commands() { Step::More } else { Step::Idle }
    }

    fn execute(&mut self, command: &Command, sink: &mut impl Stage1Sink, effects: &mut Effects) -> Consumed {
        match command::decode(self.registers.model(), command) {
            Err(command::Illegal) => return Consumed::Failed(CommandError::Ill),
            Ok(Action::Hint) => {}
            Ok(Action::Configuration(ConfigurationInvalidation::Streams(streams))) => {
                sink.reevaluate(streams)
            }
            Ok(Action::Configuration(_) | Action::Translation(_)) => sink.invalidate(command),
            Ok(Action::Sync(signal)) => match sink.sync() {
                SyncState::Pending => return Consumed::NotYet,
                SyncState::Done => {
                    self.counters.syncs += 1;
                    // SIG_SEV without IDR0.SEV is SIG_NONE.
                    if signal == ComplSignal::Irq {
                        effects.raise(Interrupt::CommandSync);
                    }
                }
            },
        }
        Consumed::Yes
    }
}
