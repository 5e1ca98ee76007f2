// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process does, by its life: answers go to the operation that asked, reports are decided about at once.
//!
//! A process is a sealed peer that may have been taken over: a report that is not its to make ends it, as its failure
//! policy says.

use std::time::Duration;

use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;

use super::given_up::Cause;
use super::lives::DeviceOutcome;
use super::{GuestRequest, Operation, StateMachine};
use crate::coordinator::logs;
use crate::coordinator::vm::action::{Action, Notice, RequestKind};
use crate::coordinator::vm::event::{LifeId, Outcome, ProcessEvent, Timer};
use crate::lifecycle::Why;
use crate::problem::{Class, Problem};

/// Between the end of a server of ours as its client sees it, and as its parent does.
const SERVER_END_SPAN: Duration = Duration::from_millis(500);

impl StateMachine {
    /// Handles an event of a process. Those of a life that has ended are ignored.
    pub(super) fn process(&mut self, id: LifeId, event: ProcessEvent) {
        let Some(life) = self.lives.get_mut(id) else { return };
        match event {
            ProcessEvent::Gone(departure) => self.gone(id, departure),
            ProcessEvent::NotStarted(problem) => {
                self.lives.remove(id);
                self.refused(id, None, problem);
            }
            // It is being ended: nothing that it says changes that.
            _ if life.is_ending() => {}
            ProcessEvent::Started => life.started = true,
            ProcessEvent::Answered(outcome) => self.answered(id, outcome),
            ProcessEvent::Refused(problem) => {
                let request = life.open.take();
                life.refused = matches!(request, Some(RequestKind::Pause | RequestKind::Resume));
                self.refused(id, request, problem);
                if let Some(RequestKind::Rewire(next)) = request {
                    self.given_channel(next);
                }
            }
            ProcessEvent::Reported(report) => self.reported(id, report),
        }
    }

    fn answered(&mut self, id: LifeId, outcome: Outcome) {
        let Some(life) = self.lives.get_mut(id) else { return };
        let Some(request) = life.open.take() else { return };
        life.state = request.state_after(life.state).unwrap_or(life.state);
        life.refused = false;
        life.can_be_saved |= request == RequestKind::CheckSave;
        if let RequestKind::Rewire(next) = request {
            self.rewired(id.instance, next);
            return self.given_channel(next);
        }
        if request == RequestKind::Replay {
            self.peer_replayed(id);
            self.peer_replayed_revived(id);
        }
        let Some(life) = self.lives.get_mut(id) else { return };
        match request {
            RequestKind::DirtyLog(op) => life.dirty_log = Some(op),
            RequestKind::HoldCpus(held) => life.is_held = held,
            _ => {}
        }
        match outcome {
            Outcome::Done => {}
            Outcome::Paused(in_flight) => self.paused_with(id, in_flight),
            Outcome::Replayed(streams) => self.replayed(id, &streams),
            Outcome::Saved(len) => life.saved_len = Some(len),
            Outcome::Probed(outcome) => self.probed(id, outcome),
        }
        if request == RequestKind::Configure {
            // Devices may have died before the vSMMU could take the notification.
            self.tell_dma_ended();
        }
    }

    /// A process cannot do what it was asked, or could not even be started.
    fn refused(&mut self, id: LifeId, request: Option<RequestKind>, problem: Problem) {
        match request {
            // They cannot fail: the process has broken the contract, and costs what it costs in a running VM.
            Some(RequestKind::Go) => return self.fail(id, format!("it refuses to go: {}", problem.what)),
            Some(RequestKind::HoldCpus(_)) => {
                return self.fail(
                    id,
                    format!("it refuses to hold its CPUs, or to let them go on: {}", problem.what),
                );
            }
            _ => {}
        }
        // What a log is on for is given up, and not the process.
        let is_log = matches!(request, Some(RequestKind::DirtyLog(_)));
        if !is_log && self.refused_recovery(id, request, &problem) {
            return;
        }
        match &mut self.operation {
            Operation::Boot(_) => self.end_failed(problem, Vec::new()),
            Operation::Transit(transit) => {
                // Others may still refuse what was asked before the way back.
                let on_the_way = request == Some(transit.goal.request());
                if on_the_way && !Self::turn_back(&mut transit.goal, &mut transit.failed, problem.clone()) {
                    self.refused_way_back(id, &problem);
                }
            }
            Operation::SaveRestore(_) => self.refused_to_move(id, request, problem),
            Operation::Restart(_) => self.refused_restart(id, request, problem),
            Operation::Outgoing(_) => self.refused_to_leave(id, request, problem),
            Operation::Incoming(_) => self.refused_to_come(id, problem),
            Operation::DirtyRate(_) => self.refused_to_log(id, request, problem),
            Operation::Probe { .. } => self.answer_probe(id, Err(problem)),
            Operation::Idle | Operation::Reset(_) | Operation::Ending(_) | Operation::Over => {}
        }
    }

    fn reported(&mut self, id: LifeId, report: Report) {
        let speaks_for_the_guest = self.plan.member(id.instance).is_some_and(|member| member.runs_guest);
        match report {
            Report::GuestPoweredOff if speaks_for_the_guest => self.guest_asks(id, GuestRequest::PowerOff),
            Report::GuestReset if speaks_for_the_guest => self.guest_asks(id, GuestRequest::Reset),
            Report::GuestPoweredOff | Report::GuestReset => {
                self.fail(id, "it speaks for the guest, and does not run it".to_owned());
            }
            Report::DeviceOpened => self.device_opened(id),
            Report::DeviceFailed(reason) => self.device_failed(id, reason),
            Report::Sealed(_) => self.fail(id, "it says a second time that it is sealed".to_owned()),
            Report::Fatal(reason) => self.fail(id, reason),
            Report::PeerFailed { name, why } => self.peer_failed(id, &name, &why),
            Report::Unmapped { name } => self.said_unmapped(id, &name),
            Report::Carried(_) => self.fail(id, "it carries, and is no mover".to_owned()),
            // For the process's task, whose deadline it renews; for the driver, which has kept them.
            Report::Progress | Report::Features(_) => {}
        }
    }

    /// The guest asks to be switched off, which is done at once, or reset. In a life of its CPUs that is just
    /// beginning, both wait until that is through.
    fn guest_asks(&mut self, id: LifeId, request: GuestRequest) {
        let begins = matches!(self.operation, Operation::Boot(_)) || self.is_past_commit();
        if request == GuestRequest::PowerOff && !begins {
            self.tell(Notice::GuestPoweredOff);
            self.end(Why::GuestPoweredOff);
        } else {
            self.guest_request = Some((id, request));
        }
    }

    fn device_opened(&mut self, id: LifeId) {
        let Some(life) = self.lives.get_mut(id) else { return };
        let is_arming = life.state == State::Armed || life.open == Some(RequestKind::Arm);
        if life.opens_device && life.device.is_none() && is_arming {
            life.device = Some(DeviceOutcome::Opened);
        } else {
            self.fail(id, "it says a second time that its device is open".to_owned());
        }
    }

    fn device_failed(&mut self, id: LifeId, reason: String) {
        let Some(life) = self.lives.get_mut(id) else { return };
        if !life.opens_device {
            return self.fail(id, "it tells of a device, and has none".to_owned());
        }
        life.device = Some(DeviceOutcome::Failed);
        // The guest that would be without it ends, perhaps before its server's end could be seen.
        if matches!(self.operation, Operation::Ending(_) | Operation::Over) {
            return;
        }
        let problem = Problem::new(
            Class::State,
            format!("its device does not come along: {}", logs::printable(reason.as_bytes())),
            id.instance.to_string(),
            "look at its server",
        );
        if self.is_moving_to(id) {
            return self.give_up_move(Some(id.instance), problem, Cause::Refusal);
        }
        if self.is_ordered(id) && self.fail_order(id, &problem) {
            return;
        }
        let server = self.plan.member(id.instance).and_then(|member| member.server);
        if server.is_some_and(|server| self.lives.beside(id, server).is_some()) {
            self.failing_devices.insert(id, reason);
            self.actions.push(Action::Arm(Timer::ServerEnd(id), SERVER_END_SPAN));
        } else {
            self.lose_device(id.instance, &reason, Vec::new());
        }
    }

    /// A process says that another one does not do its part. One that is gone already has been decided about.
    fn peer_failed(&mut self, id: LifeId, name: &str, why: &str) {
        if let Some(peer) = name.parse().ok().and_then(|instance| self.lives.beside(id, instance)) {
            if let Some(life) = self.lives.get_mut(peer).filter(|life| !life.is_ending()) {
                life.hangs = true;
            }
            self.fail(peer, logs::printable(why.as_bytes()));
        }
    }
}
