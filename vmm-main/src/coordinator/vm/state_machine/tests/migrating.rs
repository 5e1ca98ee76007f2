// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world's part of a migration: a driver that obeys, another host that answers, and the rules that hold at each
//! step.

use std::collections::VecDeque;
use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::control::DirtyLogOp;
use ipc::protocol::lifecycle::State;

use super::world::{World, problem};
use crate::api::types::ResolveRequest;
use crate::coordinator::vm::action::MigrationAction;
use crate::coordinator::vm::event::{Event, LifeId, MigrationEvent, Ticket};
use crate::migration::message::Message;
use crate::migration::source::Whereabouts;
use crate::system::MOVER;

/// A migration.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// What the driver has not done yet.
    pub actions: VecDeque<MigrationAction>,
    /// What was said to the other host.
    pub said: Vec<Message>,
    /// Another host may have the disks.
    pub disks_are_released: bool,
    /// The other host does not let go of them.
    pub keeps_disks: bool,
    /// The other host may run the guest.
    pub is_elsewhere: bool,
    /// The other host is not to ask any more.
    pub is_settled: bool,
    /// The other host does not answer.
    pub is_deaf: bool,
    /// What the other host says of where the guest is; nothing, if it is not reached.
    pub place: Option<Whereabouts>,
    /// What each harvest finds.
    pub owed_len: u64,
    /// The shares of their time that the guest's CPUs were to lose, in percent.
    pub throttles: Vec<u8>,
}

impl Migration {
    /// A process that works for the guest is let go on.
    pub fn check_may_run(&self, life: LifeId) {
        if matches!(life.instance.role, Role::Smmu | Role::Mover) {
            return;
        }
        assert!(!self.is_elsewhere, "{life:?} goes on, and the guest may run on the other host");
        assert!(!self.disks_are_released, "{life:?} goes on, and another host may have its disks");
    }
}

impl World {
    /// A destination, which waits for a guest.
    pub fn receiving() -> Self {
        let mut world = Self::beginning_with(Event::Receive);
        (world.migration.is_elsewhere, world.migration.disks_are_released) = (true, true);
        world
    }

    pub fn migrate(&mut self, action: MigrationAction) {
        match &action {
            MigrationAction::Harvest(_) => {
                self.check_harvest();
                for process in self.processes.values_mut().filter(|it| it.logging == Some(DirtyLogOp::Rearm))
                {
                    // The next harvest needs another flip.
                    process.logging = Some(DirtyLogOp::Enable { epoch: 0 });
                }
            }
            MigrationAction::Settle => self.migration.is_settled = true,
            MigrationAction::Throttle(percent) => {
                let cpus = self.machine.cpus().unwrap();
                assert_eq!(
                    (cpus.instance.role, self.machine.life_of(cpus.instance)),
                    (Role::Vcpu, Some(cpus))
                );
                self.migration.throttles.push(*percent);
            }
            MigrationAction::SendStates | MigrationAction::ReleaseDisks => self.check_still(State::Paused),
            MigrationAction::Say(message) => {
                match message {
                    Message::Last { .. } => self.check_still(State::Paused),
                    Message::Commit => {
                        self.check_still(State::Paused);
                        self.migration.is_elsewhere = true;
                    }
                    Message::Ready => {
                        assert!(!self.migration.disks_are_released, "the disks are locked first");
                        self.check_still(State::Replayed);
                    }
                    _ => {}
                }
                self.migration.said.push(message.clone());
            }
            _ => {}
        }
        self.migration.actions.push_back(action);
    }

    /// Nobody who works for the guest moves. One that has died meanwhile is decided about elsewhere.
    fn check_still(&self, expected: State) {
        let guests = self.processes.iter().filter(|(life, process)| {
            life.instance != MOVER && process.ending.is_none() && life.instance.role != Role::Smmu
        });
        for (life, process) in guests {
            assert_eq!((process.state, process.may_run), (expected, false), "{life:?}");
        }
    }

    /// The driver does something, and the other host answers; false if nothing comes of it.
    pub fn serve_migration(&mut self, action: MigrationAction) -> bool {
        let event = match action {
            MigrationAction::Describe(_) => MigrationEvent::Offered(Ok(vec![1])),
            MigrationAction::Dial => MigrationEvent::Dialled(Ok(())),
            MigrationAction::Open => MigrationEvent::Opened(Ok(())),
            MigrationAction::TakeLanes => MigrationEvent::Connected,
            MigrationAction::Harvest(_) => MigrationEvent::Harvested(self.migration.owed_len),
            MigrationAction::SendRound(_) => {
                MigrationEvent::RoundSent { carried_len: 1 << 20, took: Duration::from_millis(1) }
            }
            MigrationAction::SendStates => {
                MigrationEvent::StatesQueued(Ok(Message::Last { units: vec![], digest: [0; 32] }))
            }
            MigrationAction::Say(message) => match answer_to(&message).filter(|_| !self.migration.is_deaf) {
                Some(answer) => {
                    self.hear(answer);
                    return true;
                }
                None => return false,
            },
            MigrationAction::ReleaseDisks => {
                self.migration.disks_are_released = true;
                MigrationEvent::DisksReleased(Ok(()))
            }
            MigrationAction::LockDisks if self.migration.keeps_disks => {
                MigrationEvent::DisksLocked(Err(problem("it is in use")))
            }
            MigrationAction::LockDisks => {
                self.migration.disks_are_released = false;
                MigrationEvent::DisksLocked(Ok(()))
            }
            MigrationAction::Compare(_) => MigrationEvent::Compared(Ok((vec![], true))),
            MigrationAction::Prepare => {
                self.happen(Event::Prepared(Ok(())));
                return true;
            }
            MigrationAction::CompareFeatures(_) => MigrationEvent::FeaturesCompared(vec![]),
            MigrationAction::Check(_) => MigrationEvent::Checked(Ok(())),
            MigrationAction::Ask => {
                let place = self.migration.place.unwrap_or(Whereabouts::NoAnswer);
                MigrationEvent::Asked(place, "said so".to_owned())
            }
            MigrationAction::Close => MigrationEvent::Closed,
            MigrationAction::Settle
            | MigrationAction::Throttle(..)
            | MigrationAction::OweAll
            | MigrationAction::TakeStates
            | MigrationAction::Forget => return false,
        };
        self.happen(Event::Migration(event));
        true
    }

    /// The other host says this.
    pub fn hear(&mut self, message: Message) {
        match message {
            // It does not run the guest, and never will.
            Message::Failed(_) => self.migration.is_elsewhere = false,
            Message::Commit => self.migration.is_elsewhere = false,
            _ => {}
        }
        self.happen(Event::Migration(MigrationEvent::Heard(message)));
    }

    /// Of a client that asks.
    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.asked.insert(self.tickets);
        self.tickets
    }

    /// A client wants it stopped.
    pub fn cancel_migration(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.happen(Event::Migration(MigrationEvent::Cancel(ticket)));
        ticket
    }

    /// A person says where the guest is to go on; the other host is asked first, unless it is `forced`.
    pub fn resolve_migration(&mut self, here: bool, forced: bool) -> Ticket {
        let ticket = self.ticket();
        self.migration.is_elsewhere &= !(here && forced && self.machine.is_ambiguous());
        let request = ResolveRequest { resume: here, force: forced };
        self.happen(Event::Migration(MigrationEvent::Resolve(ticket, request)));
        ticket
    }

    /// The connection is lost.
    pub fn lose_link(&mut self) {
        self.migration.is_deaf = true;
        self.happen(Event::Migration(MigrationEvent::LinkLost("cut".to_owned())));
    }

    /// Everyone obeys until this was said to the other host, or not.
    pub fn until_said(&mut self, said: impl Fn(&Message) -> bool) {
        self.until(|world| world.migration.said.iter().any(&said).then_some(()));
    }
}

/// What a host says that takes the guest, or gives it.
fn answer_to(message: &Message) -> Option<Message> {
    match message {
        Message::Offer(_) => Some(Message::Accept),
        Message::Last { .. } => Some(Message::Ready),
        Message::Commit => Some(Message::Running),
        Message::Running => Some(Message::Known),
        Message::Accept => Some(Message::Last { units: vec![], digest: [0; 32] }),
        Message::Ready => Some(Message::Commit),
        _ => None,
    }
}
