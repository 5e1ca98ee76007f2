// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the coordinator and its mover say to each other: the queue of requests, of which one is open at a time, and the
//! notices, of which each is an event; messages of the coordinators are sealed and opened here.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::protocol::control::Request;
use ipc::protocol::mover::{MoverNotice, MoverRequest, Security};
use ipc::shm::dirty_log::SharedOwed;
use ipc::shm::region::Region;

use super::super::driver::{Vm, refused};
use super::super::event::{Event, LifeId, MigrationEvent};
use super::super::state_machine::bug;
use super::{Asked, lost};
use crate::coordinator::Arrival;
use crate::coordinator::objects::Objects;
use crate::coordinator::process::TaskMessage;
use crate::launcher::other_host::Reach;
use crate::launcher_channel::{FromCoordinator, Lane};
use crate::migration::message::{Message, Side};
use crate::problem::Problem;
use crate::system::{EdgeKind, MOVER, ObjectId};

impl Vm {
    /// Asks the launcher for connections: for the guest, or for a question.
    pub(super) fn dial(&mut self, asks: bool) -> Result<(), Problem> {
        let Some(migration) = &mut self.migration else { return Err(bug("there is no migration")) };
        self.dials = self.dials.checked_add(1).unwrap_or(1);
        migration.asks = asks;
        let (number, lane_count) = (self.dials, if asks { 1 } else { migration.lane_count });
        migration.dial = number;
        let reach = Reach::of(migration.security != Security::Plain, migration.insecure);
        let dial = FromCoordinator::Dial { number, to: migration.to.clone(), lane_count, reach };
        self.to_launcher.try_send(dial).map_err(|error| refused("reach the launcher", &error))
    }

    /// The launcher has handed something over.
    pub(in crate::coordinator::vm) fn arrived(&mut self, arrival: Arrival) -> Option<Event> {
        match arrival {
            Arrival::Lane(lane) => self.lane_arrived(lane),
            Arrival::Identity(file, memory) => {
                // A source's comes with the request.
                let migration = self.migration.as_mut().filter(|it| it.side == Side::Destination)?;
                migration.identity.push((file, memory));
                if migration.takes_lanes {
                    self.take_lanes();
                }
                None
            }
        }
    }

    /// A connection has come, or none will.
    fn lane_arrived(&mut self, lane: Lane) -> Option<Event> {
        let Lane { dial, index, socket } = lane;
        if dial == 0 && self.guest_has_come() {
            // The guest has come: whoever connects now can only have a question.
            socket.ok().into_iter().for_each(|socket| self.answer_question(socket));
            return None;
        }
        let is_for_question = self.migration.as_ref().is_some_and(|it| it.asks && it.dial == dial);
        if is_for_question {
            self.put_question(socket);
            return None;
        }
        // A connection of a migration that was given up is not this one's.
        let migration = self.migration.as_mut().filter(|migration| migration.dial == dial)?;
        match socket {
            Ok(socket) => migration.lanes.push((index, socket)),
            Err(error) => {
                let advice = "see that `bulkhead receive` waits there";
                let what = format!("the other host cannot be reached: {error}");
                let problem = Problem::host(what, &*migration.to, advice);
                return Some(Event::Migration(MigrationEvent::Dialled(Err(problem))));
            }
        }
        if migration.takes_lanes {
            self.take_lanes();
            return None;
        }
        let is_whole =
            migration.lane_count != 0 && migration.lanes.len() == usize::from(migration.lane_count);
        is_whole.then_some(Event::Migration(MigrationEvent::Dialled(Ok(()))))
    }

    /// Gives the mover the connections that there are, behind what it needs for them.
    pub(super) fn take_lanes(&mut self) {
        let Some(migration) = &mut self.migration else { return };
        migration.takes_lanes = true;
        let lanes = std::mem::take(&mut migration.lanes);
        for (file, memory) in std::mem::take(&mut migration.identity) {
            self.carry(MoverRequest::TakeIdentity(file), vec![memory]);
        }
        for (index, socket) in lanes {
            self.carry(MoverRequest::TakeLane { index }, vec![socket]);
        }
    }

    /// The objects of the mover, whose life this is.
    pub(in crate::coordinator::vm) fn mover_objects(&mut self, life: LifeId) -> Result<&Objects, Problem> {
        let guest = self.migration.as_ref().and_then(|migration| migration.guest.as_ref());
        let guest = guest.or(self.current.as_ref().map(|shared| &shared.objects));
        let objects = guest.ok_or_else(|| bug("there is no guest to be carried"))?.for_mover()?;
        let owed = ObjectId { kind: EdgeKind::OwedMap, owner: MOVER, index: 0 };
        let map = || {
            let memory = objects.get(owed).ok_or_else(|| bug("a mover has no owed map"))?;
            let memory = memory.try_clone_to_owned().map_err(|error| refused("open an owed map", &error))?;
            Region::from_fd(memory, SharedOwed::region_len(&self.layout))
                .and_then(|region| SharedOwed::attach(&region, &self.layout))
                .map_err(|error| refused("map an owed map", &error))
        };
        let owed = map()?;
        let Some(migration) = &mut self.migration else { return Err(bug("there is no migration")) };
        (migration.owed, migration.mover) = (Some(Arc::new(owed)), Some(life));
        Ok(migration.objects.insert(objects))
    }

    /// Has the mover do something, once it has done what it was asked before.
    pub(super) fn carry(&mut self, request: MoverRequest, fds: Vec<OwnedFd>) {
        if let Some(migration) = &mut self.migration {
            migration.queue.push_back((request, fds));
        }
        self.ask_mover();
    }

    fn ask_mover(&mut self) {
        let Some(migration) = self.migration.as_mut().filter(|migration| migration.asked.is_none()) else {
            return;
        };
        let Some(process) = migration.mover.and_then(|life| self.processes.get(&life)) else { return };
        if let Some((request, fds)) = migration.queue.pop_front() {
            migration.asked = Some(match request {
                MoverRequest::TakeIdentity(_) => Asked::Identity,
                _ => Asked::Other,
            });
            process.send(TaskMessage::Request(Request::Carry(request), fds));
        }
    }

    /// Whether the answer that this process gives is the mover's to a request in the queue.
    pub(in crate::coordinator::vm) fn is_asked_to_carry(&self, life: LifeId) -> bool {
        let migration = self.migration.as_ref();
        migration.is_some_and(|migration| migration.mover == Some(life) && migration.asked.is_some())
    }

    /// The mover has answered the request before.
    pub(in crate::coordinator::vm) fn carried(&mut self, result: Result<(), Problem>) -> Option<Event> {
        let asked = self.migration.as_mut().and_then(|migration| migration.asked.take());
        self.ask_mover();
        let event = result.err().map(|problem| match asked {
            Some(Asked::Identity) => {
                let advice = "give --tls-ca, --tls-cert and --tls-key files that belong together";
                MigrationEvent::Unidentified(Problem::usage(problem.what, "TLS", advice))
            }
            Some(Asked::Other) | None => lost(problem),
        });
        event.map(Event::Migration)
    }

    /// The mover has something to say.
    pub(in crate::coordinator::vm) fn noticed(&mut self, notice: MoverNotice) -> Option<Event> {
        let migration = self.migration.as_mut()?;
        let event = match notice {
            MoverNotice::Connected { migration: id, lane_count: _ } => match migration.side {
                Side::Source => MigrationEvent::Connected,
                Side::Destination => match migration.identify(id) {
                    Ok(()) => MigrationEvent::Connected,
                    Err(problem) => lost(problem),
                },
            },
            MoverNotice::RoundSent(report) => {
                migration.report.sent(report);
                let took = Duration::from_micros(report.took_us);
                MigrationEvent::RoundSent { carried_len: report.carried_len(), took }
            }
            MoverNotice::Heard(sealed) => {
                let opened = migration.session.as_mut().map(|session| session.open(&sealed));
                match opened {
                    Some(Ok(message)) => {
                        if message == Message::Running {
                            migration.report.runs_there();
                        }
                        MigrationEvent::Heard(message)
                    }
                    Some(Err(error)) => MigrationEvent::LinkLost(error.to_string()),
                    None => {
                        MigrationEvent::LinkLost("the other host speaks before it has greeted".to_owned())
                    }
                }
            }
            MoverNotice::LinkLost(why) => {
                MigrationEvent::LinkLost(crate::coordinator::logs::printable(why.as_bytes()))
            }
            MoverNotice::Closed => MigrationEvent::Closed,
        };
        Some(Event::Migration(event))
    }

    pub(super) fn say(&mut self, message: &Message) {
        let Some(migration) = &mut self.migration else { return };
        // Nobody has connected: nobody hears it.
        let Some(session) = &mut migration.session else { return };
        if let Ok(sealed) = session.seal(message) {
            self.carry(MoverRequest::Say(sealed), vec![]);
        }
    }
}
