// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a VM, which waits for no operation: whatever is under way is given up, and its client answered.
//!
//! The first reason for the end is the one that is reported. The CPUs' process ends first, then all others at once; a
//! process that does not even obey a kill is named, and not waited for.

use super::{Operation, Progress, StateMachine, Step, has_ended};
use crate::coordinator::spans::STOP_SPAN;
use crate::coordinator::vm::action::{Action, Notice};
use crate::coordinator::vm::event::{Ticket, Timer};
use crate::lifecycle::{self, Phase, Why};
use crate::problem::Problem;

impl StateMachine {
    /// Ends the VM, unless that has begun.
    pub(super) fn end(&mut self, why: Why) {
        if !matches!(self.operation, Operation::Ending(_) | Operation::Over) {
            self.operation = self.start_ending(why);
        }
    }

    /// Ends the VM because of `problem`. A guest that is being handed over to another host is that first: with the
    /// mover the order would be lost, and the guest at both ends.
    pub(super) fn end_failed(&mut self, problem: Problem, last_lines: Vec<String>) {
        match &mut self.operation {
            Operation::Outgoing(leaving) if leaving.hands_over() => leaving.end_behind(problem, last_lines),
            _ => self.end(Why::Failed { problem, last_lines }),
        }
    }

    /// The operation that ends the VM because of `problem`.
    pub(super) fn ending_failed(&mut self, problem: Problem) -> Operation {
        self.start_ending(Why::Failed { problem, last_lines: Vec::new() })
    }

    /// The operation that ends the VM. Who waits for the one that is under way is answered.
    pub(super) fn start_ending(&mut self, why: Why) -> Operation {
        let probing = self.mover_probe.take().map(|(ticket, _)| ticket);
        let ordered = self.recovery.take().and_then(|recovery| recovery.ordered).map(|order| order.ticket);
        for ticket in self.open_ticket().into_iter().chain(probing).chain(ordered) {
            let problem = why.problem().cloned().unwrap_or_else(has_ended);
            self.answer(ticket, Err(problem));
        }
        if let Ok(after) = self.phase.after(lifecycle::Step::Stop) {
            self.phase = after;
        }
        self.guest_request = None;
        self.failing_devices.clear();
        self.actions.push(Action::Arm(Timer::Stop, STOP_SPAN));
        Operation::Ending(why)
    }

    /// Whose command is being carried out.
    pub(super) const fn open_ticket(&self) -> Option<Ticket> {
        match &self.operation {
            Operation::Transit(transit) => Some(transit.ticket),
            Operation::SaveRestore(moving) => Some(moving.ticket),
            Operation::Restart(restart) => Some(restart.ticket),
            Operation::DirtyRate(measuring) => Some(measuring.ticket),
            Operation::Probe { ticket, .. } => Some(*ticket),
            Operation::Outgoing(leaving) => leaving.ticket,
            Operation::Idle
            | Operation::Incoming(_)
            | Operation::Boot(_)
            | Operation::Reset(_)
            | Operation::Ending(_)
            | Operation::Over => None,
        }
    }

    pub(super) fn ending(&mut self, why: Why) -> Step {
        if self.end_everyone() == Progress::Waiting {
            return Step::Break(Operation::Ending(why));
        }
        if !self.hanging.is_empty() {
            self.tell(Notice::Hanging(self.hanging.clone()));
        }
        self.actions.push(Action::Release);
        self.phase = Phase::Stopped { why };
        Step::Break(Operation::Over)
    }

    /// Every process has had its time to end.
    pub(super) fn give_up_on_processes(&mut self) {
        if !matches!(self.operation, Operation::Ending(_)) {
            return;
        }
        for id in self.lives.ids() {
            self.lives.remove(id);
            self.hanging.push(id.instance);
        }
    }
}
