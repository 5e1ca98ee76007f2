// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest around QEMU's `edu` device: RAM with one context and its 4 KiB tables, and the device's few registers.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dev_vfio::physical::device::{self, Bound, How, PhysicalDevice};
use dev_vfio::physical::error::KernelError;
use dev_vfio::physical::interrupts::Interrupts;
use dev_vfio::physical::journal::{HostJournal, Left};
use dev_vfio::physical::nested::NestedIommu;
use dev_vfio::physical::objects::Objects;
use dev_vfio::physical::sys::{self, Kind};
use ipc::addr::{Gpa, StreamId};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::{self, DirtyLog, OwedMap};
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use smmu_arch::spec::commands::Opcode;
use smmu_arch::{Model, Options};

pub const BASE: u64 = 0x4000_0000;
const LEN: u64 = 64 << 20;
pub const STREAM: StreamId = StreamId(8);
const ASID: u64 = 5;
const CONTEXT: u64 = BASE + 0x10_0000;
const TABLES: u64 = BASE + 0x20_0000;

/// The address of the device, if there is one that is bound to vfio-pci; else says so.
pub fn named() -> Option<String> {
    let bound = fs::read_dir("/sys/bus/pci/drivers/vfio-pci").into_iter().flatten().flatten();
    let is = |folder: &Path, file: &str, id: &str| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == id)
    };
    let mut edu = bound
        .filter(|entry| is(&entry.path(), "vendor", "0x1234") && is(&entry.path(), "device", "0x11e8"))
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found = edu.next();
    if found.is_none() {
        println!("SKIPPED: no edu device is bound to vfio-pci (`cargo xtask lab nested` has one)");
    }
    found
}

/// A vSMMU that the lab's host can nest: its SMMU has no SubstreamIDs.
pub fn options() -> Options {
    Options { ssidsize: 0, oas: 44, ..Options::default() }
}

pub struct Vm {
    /// Before the guest's memory and the files: its objects go first.
    pub iommu: NestedIommu,
    pub edu: Edu,
    pub guest: Guest,
    pub cdev: Arc<OwnedFd>,
    pub iommu_file: OwnedFd,
}

impl Vm {
    /// Over a device that is bound to vfio-pci.
    pub fn new(address: &str, options: Options) -> Result<Vm, KernelError> {
        let folder = Path::new("/sys/bus/pci/devices").join(address).join("vfio-dev");
        let entry = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let name = entry.flatten().next().unwrap().file_name();
        let open =
            |path: &Path| OwnedFd::from(fs::File::options().read(true).write(true).open(path).unwrap());
        let cdev = open(&Path::new("/dev/vfio/devices").join(name));
        Vm::over(cdev, open(Path::new("/dev/iommu")), Guest::new(), options)
    }

    /// Over files that are open.
    pub fn over(cdev: OwnedFd, iommu: OwnedFd, guest: Guest, options: Options) -> Result<Vm, KernelError> {
        let iommu_file = iommu.try_clone().unwrap();
        let (cdev, objects) = (Arc::new(cdev), Objects::new(iommu));
        let bound = device::bind(cdev.as_fd(), &objects)?;
        let (device, _) = PhysicalDevice::open(Arc::clone(&cdev), bound, How::Reset)?;
        let Bound::BehindIommu(id) = bound else { panic!("the device is behind no IOMMU") };
        let model = Model::new(smmu_arch::model::MODEL_NAME, options).unwrap();
        let ram = guest.region.as_fd();
        let iommu = NestedIommu::new(Arc::clone(&cdev), objects, id, ram, &guest.layout, STREAM, &model)?;
        Ok(Vm { iommu, edu: Edu::new(device), guest, cdev, iommu_file })
    }

    /// What a next life of the device's process finds in `journal` and the files, and goes on with, after this one has
    /// died: it undoes nothing. How many calls that took.
    pub fn die_and_adopt(self, journal: &HostJournal) -> Result<(Vm, u64), KernelError> {
        let Vm { iommu, edu, guest, cdev, iommu_file } = self;
        iommu.abandon().unwrap();
        let Some(Left::Nested { made, attached }) = journal.left() else { panic!("{:?}", journal.left()) };
        let before = sys::calls(Kind::Other);
        let model = Model::new(smmu_arch::model::MODEL_NAME, options()).unwrap();
        let (objects, journal) = (Objects::new(iommu_file.try_clone().unwrap()), journal.clone());
        let (theirs, found) = (Arc::clone(&cdev), (made, attached));
        let iommu = NestedIommu::adopt(theirs, objects, found, journal, &guest.layout, STREAM, &model)?;
        let count = sys::calls(Kind::Other) - before;
        Ok((Vm { iommu, edu, guest, cdev, iommu_file }, count))
    }
}

pub struct Guest {
    layout: RamLayout,
    region: Region,
    ram: GuestMemory,
    /// The next free page for a table.
    free: u64,
}

impl Guest {
    /// AP[2].
    pub const READ_ONLY: u64 = 1 << 7;
    /// To be taken away: AF.
    pub const NOT_ACCESSED: u64 = 1 << 10;
    /// Page, AP[1], inner shareable, AF, nG.
    const PAGE: u64 = 0b11 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;

    pub fn new() -> Guest {
        let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(BASE), len: LEN, file_offset: 0 }]).unwrap();
        let region = Region::create("ram", LEN).unwrap();
        let log = DirtyLog::create("log", &layout).unwrap();
        let log = Arc::new(DirtyLog::attach(&log, &layout).unwrap());
        let ram = GuestMemory::new(Arc::new(guest_memory::map(&region, &layout).unwrap()), log);
        let guest = Guest { layout, region, ram, free: TABLES + 0x1000 };
        // T0SZ 16: 48 bits, four levels.
        guest.word(CONTEXT + 8, TABLES);
        guest.word(CONTEXT + 24, 0xff);
        guest.break_context(false);
        guest
    }

    /// Makes the context descriptor bad, or good again.
    pub fn break_context(&self, bad: bool) {
        // T0SZ 16, IRGN, ORGN, SH, EPD1, V, IPS 44 bits, AA64, R, A, ASET, ASID.
        let good = 16
            | 1 << 8
            | 1 << 10
            | 3 << 12
            | 1 << 30
            | 1 << 31
            | 4 << 32
            | 1 << 41
            | 1 << 45
            | 1 << 46
            | 1 << 47
            | ASID << 48;
        self.word(CONTEXT, if bad { 0 } else { good });
    }

    /// Config 0b101; S1CIR, S1COR, S1CSH.
    pub fn stage1(&self) -> Attachment {
        Attachment::Stage1([CONTEXT | 0b1011, 0b1101_0100])
    }

    /// Maps a page; `changed` are attribute bits to turn over.
    pub fn map(&mut self, iova: u64, page: u64, changed: u64) {
        let mut table = TABLES;
        for shift in [39, 30, 21] {
            let slot = table + (iova >> shift & 0x1ff) * 8;
            let mut entry = self.load(slot);
            if entry == 0 {
                entry = self.free | 0b11;
                self.free += 0x1000;
                self.word(slot, entry);
            }
            table = entry & 0xffff_ffff_f000;
        }
        self.word(table + (iova >> 12 & 0x1ff) * 8, page | Self::PAGE ^ changed);
    }

    pub fn tlbi_va(&self, iova: u64) -> [u64; 2] {
        [u64::from(Opcode::TlbiNhVa.0) | ASID << 48, iova | 1]
    }

    pub fn read(&self, gpa: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.ram.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        self.ram.write(Gpa(gpa), bytes).unwrap();
    }

    /// A log of its RAM that is on.
    pub fn log(&self) -> DirtyLog {
        let log = DirtyLog::create("dirty", &self.layout).unwrap();
        let log = DirtyLog::attach(&log, &self.layout).unwrap();
        log.enable(1);
        log
    }

    /// What is in a log.
    pub fn pages(&self, log: &DirtyLog) -> OwedMap {
        let mut pages = OwedMap::new(&self.layout);
        dirty_log::rearm_and_harvest(log, &mut pages);
        pages
    }

    fn load(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(Gpa(gpa), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn word(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }
}

/// A command about our stream.
pub fn command(opcode: Opcode) -> [u64; 2] {
    [u64::from(opcode.0) | u64::from(STREAM.0) << 32, 0]
}

/// The device's registers (QEMU's `docs/specs/edu`).
pub struct Edu {
    device: PhysicalDevice,
}

impl Edu {
    const IDENTIFICATION: u64 = 0x00;
    const RAISE: u64 = 0x60;
    const ACKNOWLEDGE: u64 = 0x64;
    const DMA_SOURCE: u64 = 0x80;
    const DMA_TARGET: u64 = 0x88;
    const DMA_COUNT: u64 = 0x90;
    const DMA_COMMAND: u64 = 0x98;
    const BUFFER: u64 = 0x4_0000;
    const CONFIG: u32 = 7;

    fn new(device: PhysicalDevice) -> Edu {
        // Memory, bus master.
        device.write(Self::CONFIG, 4, 2, 0b110);
        assert_eq!(device.read(0, Self::IDENTIFICATION, 4).unwrap() & 0xff, 0xed);
        Edu { device }
    }

    /// The device reads memory into its buffer.
    pub fn read_memory(&self, iova: u64, count: usize) {
        self.dma(iova, Self::BUFFER, count, 0b01);
    }

    /// It writes its buffer to memory.
    pub fn write_memory(&self, iova: u64, count: usize) {
        self.dma(Self::BUFFER, iova, count, 0b11);
    }

    pub fn interrupt(&self) {
        self.raise();
        self.acknowledge();
    }

    /// Its pin is asserted until it is told that somebody knows.
    pub fn raise(&self) {
        self.device.write(0, Self::RAISE, 4, 1);
    }

    pub fn acknowledge(&self) {
        self.device.write(0, Self::ACKNOWLEDGE, 4, 1);
    }

    pub fn interrupts(&mut self) -> &mut Interrupts {
        self.device.interrupts_mut()
    }

    fn dma(&self, source: u64, target: u64, count: usize, command: u64) {
        self.device.write(0, Self::DMA_SOURCE, 8, source);
        self.device.write(0, Self::DMA_TARGET, 8, target);
        self.device.write(0, Self::DMA_COUNT, 8, u64::try_from(count).unwrap());
        self.device.write(0, Self::DMA_COMMAND, 8, command);
        let until = Instant::now() + Duration::from_secs(10);
        while self.device.read(0, Self::DMA_COMMAND, 8).unwrap() & 1 != 0 {
            assert!(Instant::now() < until, "the device's transfer does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
