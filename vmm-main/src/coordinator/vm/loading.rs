// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loading the guest: makes the shared objects of a boot, and loads kernel, initramfs and device tree into fresh RAM on
//! a thread.
//!
//! Unpacking a kernel may take long, and must not block the coordinator's one thread. The loading thread uses the files
//! and the RAM only; a stop does not wait for it, and it ends with the coordinator.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ipc::shm::guest_memory;
use machine::boot::{BootError, BootInfo};
use machine::{MachineConfig, boot};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::oneshot;

use super::driver::{Shared, Vm, refused};
use super::event::Event;
use super::state_machine::bug;
use crate::coordinator::objects::Objects;
use crate::coordinator::roles::Configs;
use crate::problem::Problem;

/// The outcome of a loading thread.
pub(super) type Loaded = (Box<Objects>, Result<BootInfo, BootError>);

impl Vm {
    /// Makes a boot's shared objects and starts loading the guest.
    pub(super) fn load(&mut self) -> Result<(), Problem> {
        self.clock.begin_boot();
        let handover = &self.given.handover;
        let objects = Objects::for_boot(&handover.name, &self.given.objects, &self.system, &self.layout)?;
        let memory = guest_memory::map(objects.ram(), &self.layout)
            .map_err(|error| refused("map guest RAM", &error))?;
        let mut rng_seed = [0; 64];
        getrandom(&mut rng_seed, GetRandomFlags::empty())
            .map_err(|error| refused("give random bytes", &error))?;
        let config = MachineConfig {
            ram_len: handover.memory_len,
            vcpu_count: handover.vcpu_count.into(),
            cmdline: handover.cmdline.clone(),
            rng_seed,
            pmu: handover.pmu,
            nested_slots: handover.nested_slots(),
        };
        let files = || -> io::Result<(File, Option<File>)> {
            let initramfs = self.given.initramfs.as_ref().map(File::try_clone).transpose()?;
            Ok((self.given.kernel.try_clone()?, initramfs))
        };
        let (kernel, initramfs) = files().map_err(|error| refused("duplicate a descriptor", &error))?;
        let (tell, told) = oneshot::channel();
        let loads = move || {
            let boot = boot::load(&memory, &kernel, initramfs.as_ref(), &config);
            // The receiver is dropped once the VM has ended.
            let _ = tell.send((Box::new(objects), boot));
        };
        thread::Builder::new()
            .name("load".to_owned())
            .spawn(loads)
            .map_err(|error| refused("start a thread", &error))?;
        self.loading.spawn(told);
        Ok(())
    }

    /// The guest was loaded, or loading failed.
    pub(super) fn loaded(&mut self, loaded: Result<Loaded, oneshot::error::RecvError>) -> Event {
        let take = || {
            let (objects, boot) = loaded.map_err(|_| bug("the thread that loads the guest failed"))?;
            let handover = &self.given.handover;
            let boot = boot.map_err(|error| handover.not_loaded(&error))?;
            let configs =
                Configs::new(&self.system, handover, &self.layout, boot, |id| objects.device_number(id))?;
            Ok(Shared { objects: *objects, configs })
        };
        Event::Loaded(take().map(|shared| {
            self.current = Some(shared);
            self.clock.loaded();
        }))
    }
}

/// Measures how long a boot takes.
#[derive(Debug)]
pub(super) struct BootClock {
    begun: Instant,
    loaded: Duration,
}

impl BootClock {
    pub const fn new(now: Instant) -> Self {
        Self { begun: now, loaded: Duration::ZERO }
    }

    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    pub fn loaded(&mut self) {
        self.loaded = self.begun.elapsed();
    }

    /// How long loading took, and how long everything since.
    pub fn spans(&self) -> (Duration, Duration) {
        (self.loaded, self.begun.elapsed().saturating_sub(self.loaded))
    }
}
