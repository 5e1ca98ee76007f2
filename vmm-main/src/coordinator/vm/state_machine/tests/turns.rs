// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world one turn at a time: for stories in which something happens just then.

use ipc::instance::InstanceId;

use super::world::{Process, World};
use crate::coordinator::vm::action::RequestKind;
use crate::coordinator::vm::event::LifeId;

impl World {
    /// One of those that have something to do does it, and whoever was told to end is gone.
    pub fn turn(&mut self) {
        self.serve();
        let ended = self.processes.iter().find(|(_, it)| it.ending.is_some()).map(|(life, _)| *life);
        ended.into_iter().for_each(|life| self.depart(life, true));
        let next = self.processes.iter().find(|(_, it)| !it.greeted || it.open.is_some());
        if let Some(life) = next.map(|(life, _)| *life) {
            self.fulfil(life);
            self.tell_of_device(life, false);
        }
    }

    /// Everyone obeys, one after the other, until `found` finds something.
    pub fn until<T>(&mut self, found: impl Fn(&Self) -> Option<T>) -> T {
        for _ in 0..200 {
            if let Some(found) = found(self) {
                return found;
            }
            self.turn();
        }
        panic!("it never comes to that: {:?}", self.machine);
    }

    /// Everyone obeys until `order` is open somewhere, and whose it is.
    pub fn until_open(&mut self, request: RequestKind) -> LifeId {
        let is_open = |(life, process): (&LifeId, &Process)| (process.open == Some(request)).then_some(*life);
        self.until(|world| world.processes.iter().find_map(is_open))
    }

    /// The life of an instance that the guest lives with.
    pub fn life(&self, instance: InstanceId) -> LifeId {
        let gone = LifeId { generation: self.machine.generation(), instance };
        self.machine.life_of(instance).unwrap_or(gone)
    }
}
