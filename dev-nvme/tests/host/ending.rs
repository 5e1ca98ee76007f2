// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A life that ends at one access to the host's memory or the medium, before it or behind it, and what it leaves to the
//! next.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use dev_nvme::Device;
use dev_nvme::dma::{DmaError, HostMemory, Loan};
use dev_nvme::engine::Host;
use dev_nvme::identity::Identity;
use dev_nvme::journal::Journal;
use dev_nvme::media::{Image, Media};
use dev_nvme::prp::Segment;
use dev_nvme::spec::completion::COMPLETION_LEN;
use ipc::shm::checkpoint::{CHECKPOINT_LEN, Checkpoint};
use ipc::shm::region::Region;
use ipc::vfio_user::feature::MigState;
use vm_memory::VolatileSlice;

use super::local::{Local, Raised, image};
use super::{BASE, Driver, Ram};

pub const RAM_LEN: u64 = 1 << 20;
pub const IMAGE_LEN: u64 = 1 << 20;
pub const BLOCK: u32 = 512;

/// What a life leaves behind.
pub struct Left {
    journal: Region,
    pub ram: Ram,
    pub image: File,
}

impl Left {
    /// What a life leaves that goes on from this, and ends before it has worked, or before this access.
    pub fn of_a_short_life(self, access: Option<u64>) -> Self {
        let device = Device::new(identity(), Box::new(Image::new(self.image.try_clone().unwrap())));
        device.revive(Journal::attach(&self.journal).unwrap()).unwrap();
        device.begin();
        let Some(access) = access else { return self };
        let Self { journal, ram, image } = self;
        let end = End { access, is_behind: false };
        let watched = Watched::new(World { end, ..World::new(journal, ram, image, Dying::Host) });
        let memory = Arc::new(watched.clone());
        device.connect(Host { memory, interrupts: Arc::new(Raised::default()) });
        device.set_migration_state(MigState::Running).unwrap();
        while device.engine().step() {}
        let mut world = watched.0.lock().unwrap();
        let (journal, ram, image) = (world.journal.clone(), world.ram.clone(), world.image.try_clone());
        world.left.take().unwrap_or(Self { journal, ram, image: image.unwrap() })
    }
}

/// Where a life ends: at this access, before it or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub access: u64,
    pub is_behind: bool,
}

/// What is over there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dying {
    /// The process: what it does behind that does not count.
    Process,
    /// First its host: accesses to that fail.
    Host,
    /// First the host's end of the connection: the host's memory is still mapped.
    Connection,
}

/// The world as it is, and as it was at the end.
pub struct World {
    pub journal: Region,
    ram: Ram,
    image: File,
    accesses: u64,
    end: End,
    left: Option<Left>,
    dying: Dying,
    /// Whose host it is.
    device: Option<Arc<Device>>,
}

#[derive(Clone)]
pub struct Watched(pub Arc<Mutex<World>>);

pub fn copy(from: &File, to: &File, len: u64) {
    let mut bytes = vec![0; len as usize];
    from.read_exact_at(&mut bytes, 0).unwrap();
    to.write_all_at(&bytes, 0).unwrap();
}

impl World {
    fn new(journal: Region, ram: Ram, image: File, dying: Dying) -> Self {
        Self { journal, ram, image, accesses: 0, end: NEVER, left: None, dying, device: None }
    }

    fn look(&mut self, is_behind: bool) {
        if self.left.is_none() && self.end == (End { access: self.accesses, is_behind }) {
            let journal = Checkpoint::create("left").unwrap();
            copy(self.journal.file(), journal.file(), CHECKPOINT_LEN);
            let ram = Ram::new(RAM_LEN);
            ram.put(BASE, &self.ram.get(BASE, RAM_LEN as usize));
            let left = image(IMAGE_LEN);
            copy(&self.image, &left, IMAGE_LEN);
            self.left = Some(Left { journal, ram, image: left });
            if let Some(device) = self.device.as_ref().filter(|_| self.dying == Dying::Connection) {
                device.freeze();
            }
        }
    }
}

impl Watched {
    fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// What the life leaves behind; of one whose host went first, with what it has written since.
    pub fn left(&self) -> Option<Left> {
        let mut world = self.0.lock().unwrap();
        let left = world.left.take()?;
        if world.dying != Dying::Process {
            copy(world.journal.file(), left.journal.file(), CHECKPOINT_LEN);
            copy(&world.image, &left.image, IMAGE_LEN);
            left.ram.put(BASE, &world.ram.get(BASE, RAM_LEN as usize));
        }
        Some(left)
    }

    /// The life ends there, counted from now on.
    pub fn ends_at(&self, end: End) {
        let mut world = self.0.lock().unwrap();
        (world.end, world.accesses) = (end, 0);
    }

    pub fn image(&self) -> File {
        self.0.lock().unwrap().image.try_clone().unwrap()
    }

    /// Makes an access, unless the host is gone.
    fn access<T>(&self, make: impl FnOnce(&World) -> T) -> Option<T> {
        let mut world = self.0.lock().unwrap();
        world.look(false);
        if world.left.is_some() && world.dying == Dying::Host {
            return None;
        }
        let made = make(&world);
        world.look(true);
        world.accesses += 1;
        Some(made)
    }
}

impl HostMemory for Watched {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        let len = bytes.len();
        self.access(|world| HostMemory::read(&world.ram, iova, bytes)).unwrap_or(Err(DmaError {
            iova,
            len,
            write: false,
        }))
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        let failed = DmaError { iova, len: bytes.len(), write: true };
        self.access(|world| HostMemory::write(&world.ram, iova, bytes)).unwrap_or(Err(failed))
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        // By messages: first the body, then the dword that the host polls.
        for (at, entry) in (iova..).step_by(COMPLETION_LEN).zip(entries) {
            self.write(at, &entry[..12])?;
            self.write(at + 12, &entry[12..])?;
        }
        Ok(())
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        let mut bytes = [0; 4];
        self.read(iova, &mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        self.write(iova, &dword.to_le_bytes())
    }

    fn is_connected(&self) -> bool {
        let world = self.0.lock().unwrap();
        world.left.is_none() || world.dying != Dying::Host
    }

    fn lend(&self, _: &[Segment], _: Loan, _: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        false
    }
}

/// The image, whose accesses are counted too. A host that is gone leaves it there.
struct WatchedMedia(Watched, Image);

impl WatchedMedia {
    fn access<T>(&self, make: impl FnOnce(&Image) -> T) -> T {
        self.0.0.lock().unwrap().look(false);
        let made = make(&self.1);
        let mut world = self.0.0.lock().unwrap();
        world.look(true);
        world.accesses += 1;
        made
    }
}

impl Media for WatchedMedia {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.access(|image| image.read_at(offset, bytes))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.access(|image| image.write_at(offset, bytes))
    }

    fn read_to(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.access(|image| image.read_to(offset, memory))
    }

    fn read_at_once(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<bool> {
        self.access(|image| image.read_at_once(offset, memory))
    }

    fn write_from(&self, offset: u64, memory: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.access(|image| image.write_from(offset, memory))
    }

    fn flush(&self) -> io::Result<()> {
        self.access(Media::flush)
    }

    fn zero(&self, offset: u64, len: u64, release: bool) -> io::Result<()> {
        self.access(|image| image.zero(offset, len, release))
    }

    fn release(&self, offset: u64, len: u64) -> io::Result<()> {
        self.access(|image| image.release(offset, len))
    }
}

pub fn identity() -> Identity {
    Identity::new("TEST", IMAGE_LEN, BLOCK).unwrap()
}

/// A life, and the way to its registers. It begins out of reset, or as the one before left it.
fn life(watched: &Watched, is_revived: bool) -> Local {
    let (journal, file) = {
        let world = watched.0.lock().unwrap();
        (Journal::attach(&world.journal).unwrap(), world.image.as_fd().try_clone_to_owned().unwrap())
    };
    let media = WatchedMedia(watched.clone(), Image::new(file.into()));
    let device = Arc::new(Device::new(identity(), Box::new(media)));
    if is_revived {
        device.revive(journal).unwrap();
    } else {
        device.keep_in(journal);
    }
    let raised = Arc::new(Raised::default());
    device.connect(Host { memory: Arc::new(watched.clone()), interrupts: Arc::clone(&raised) as _ });
    device.begin();
    device.set_migration_state(MigState::Running).unwrap();
    Local { device, raised, works: Arc::new(AtomicU64::new(1)) }
}

/// The first life of a controller that dies there.
pub fn begin(end: End, dying: Dying) -> (Watched, Driver<Local>) {
    let (journal, ram, image) = (Checkpoint::create("journal").unwrap(), Ram::new(RAM_LEN), image(IMAGE_LEN));
    let watched = Watched::new(World::new(journal, ram.clone(), image, dying));
    let local = life(&watched, false);
    watched.0.lock().unwrap().device = Some(Arc::clone(&local.device));
    let driver = Driver::start(local, ram);
    watched.ends_at(end);
    (watched, driver)
}

pub const NEVER: End = End { access: u64::MAX, is_behind: false };

/// The next life, in the world that the one before left, and a host that goes on there.
pub fn next(left: Left, before: &Driver<Local>) -> (Watched, Driver<Local>) {
    let Left { journal, ram, image } = left;
    let watched = Watched::new(World::new(journal, ram.clone(), image, Dying::Process));
    let driver = Driver::resume(life(&watched, true), ram, before);
    (watched, driver)
}
