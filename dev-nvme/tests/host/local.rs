// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device in this process, whose engine works when the driver waits.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dev_nvme::Device;
use dev_nvme::device::Region;
use dev_nvme::engine::{Host, Interrupts};
use dev_nvme::identity::Identity;
use dev_nvme::media::Image;
use ipc::shm::region::Region as Shared;

use super::{Driver, Ram, Wire};

/// How often each vector was raised.
#[derive(Default)]
pub struct Raised(Mutex<[u32; 17]>);

impl Raised {
    pub fn take(&self) -> [u32; 17] {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Interrupts for Raised {
    fn raise(&self, vector: u16) {
        self.0.lock().unwrap()[usize::from(vector)] += 1;
    }
}

#[derive(Clone)]
pub struct Local {
    pub device: Arc<Device>,
    pub raised: Arc<Raised>,
    /// Off: the engine works only when told to.
    pub works: Arc<AtomicU64>,
}

impl Local {
    /// A device over a file, connected to `ram`.
    pub fn new(image: File, block_len: u32, ram: &Ram) -> Local {
        let len = image.metadata().unwrap().len();
        let identity = Identity::new("TEST", len, block_len).unwrap();
        let device = Arc::new(Device::new(identity, Box::new(Image::new(image))));
        let raised = Arc::new(Raised::default());
        device.connect(Host { memory: Arc::new(ram.clone()), interrupts: Arc::clone(&raised) as _ });
        Local { device, raised, works: Arc::new(AtomicU64::new(1)) }
    }

    pub fn step(&self) -> bool {
        self.device.engine().step()
    }

    pub fn pause_engine(&self, paused: bool) {
        self.works.store(u64::from(!paused), Ordering::SeqCst);
    }
}

impl Wire for Local {
    fn read(&self, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.device.read(Region::Bar0, offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, len: usize, value: u64) {
        self.device.write(Region::Bar0, offset, &value.to_le_bytes()[..len]).unwrap();
    }

    fn progress(&self) {
        if self.works.load(Ordering::SeqCst) == 1 {
            self.step();
        }
    }
}

/// A file of `len` bytes that is in no directory.
pub fn image(len: u64) -> File {
    Shared::create("image", len).unwrap().file().try_clone().unwrap()
}

/// A started controller over a fresh image of `len` bytes in blocks of 512.
pub fn started(len: u64) -> Driver<Local> {
    let ram = Ram::new(32 << 20);
    let local = Local::new(image(len), 512, &ram);
    Driver::start(local, ram)
}
