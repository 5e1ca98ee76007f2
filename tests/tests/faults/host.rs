// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same with a physical device of the host: its DMA is translated by the host's SMMU, through the guest's tables
//! and the kernel, and the faults come back to the guest by the kernel's queue of events.
//!
//! The device is QEMU's `edu`, bound to vfio-pci, on a host with KVM: the Arm lab has both (`cargo xtask lab
//! vfio-faults`). An entry with V=0, and any other that ends in abort, is not among the cases: of those the kernel
//! reports nothing. Neither does it of DMA that only stage 2 forbids: that is in the host's log.

use std::{fs, path::Path};

use tests::{SEEN, SKIPPED, guest::GuestFiles, vm::Options};

use crate::{
    monitor::Monitor,
    place,
    smmu::{
        ACCESSED, C_BAD_CD, CLASS_IN, F_ACCESS, F_ADDR_SIZE, F_PERMISSION, F_TRANSLATION, Granule, NOWHERE,
        READ_ONLY, READ_WRITE, Record, Smmu, record,
    },
    support::{BOOT, COMMAND, STRICT, launch_as},
};

/// The device's place in the guest: configuration space (ECAM), StreamID, and its folder in Linux.
const CONFIG: u64 = 0x3000_0000 + (1 << 15);
const STREAM: u64 = 1 << 3;
const DEVICE: &str = "/sys/bus/pci/devices/0000:00:01.0";

/// Registers (QEMU's `docs/specs/edu`), and where its buffer is in its own addresses.
const IDENTIFICATION: u64 = 0x00;
const DMA_SOURCE: u64 = 0x80;
const DMA_TARGET: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
const BUFFER: u64 = 0x4_0000;
const START: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;

/// Pages: where data comes from, where it goes, and the one whose translation each case breaks.
const FROM: u64 = 0;
const TO: u64 = 1;
const VICTIM: u64 = 2;

/// Where the monitor's RAM ends.
const RAM_END: u64 = 0x4400_0000;

/// Processes of such a machine: coordinator, vCPU, SMMU, device.
const PROCESSES: usize = 4;

/// What a machine needs to have this host's device, if there is one.
fn with_device() -> Option<impl FnOnce(&mut Options)> {
    let bound = fs::read_dir("/sys/bus/pci/drivers/vfio-pci").into_iter().flatten().flatten();
    let is = |folder: &Path, file: &str, id: &str| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == id)
    };
    let mut edu = bound
        .filter(|entry| is(&entry.path(), "vendor", "0x1234") && is(&entry.path(), "device", "0x11e8"))
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let Some(address) = edu.next().filter(|_| Path::new("/dev/kvm").exists()) else {
        println!(
            "{SKIPPED}faults of a physical device: no KVM with an edu bound to vfio-pci (`cargo xtask lab` has them)"
        );
        return None;
    };
    // The emulated SMMU has no SubstreamIDs.
    let arguments = ["--cpu", "kvm", "--smmu-ssidsize", "0", "--vfio", &address].map(String::from);
    Some(move |options: &mut Options| options.arguments = arguments.to_vec())
}

struct Rig {
    m: Monitor,
    smmu: Smmu,
    bar: u64,
    events: usize,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn start(name: &str, granule: Granule) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut m = Monitor::start(folder.path(), name, with_device()?)?;
        let mut smmu = Smmu::enable(&mut m, granule, STREAM);
        for page in [FROM, TO, VICTIM] {
            let place = place(granule, page);
            smmu.map(&mut m, place.iova, place.gpa | READ_WRITE);
        }
        assert_eq!(m.load32(CONFIG), 0x11e8_1234);
        m.store32(CONFIG + 4, 0b110); // Memory Space, Bus Master
        let bar = u64::from(m.load32(CONFIG + 0x10) & !0xf);
        assert_eq!(m.load32(bar + IDENTIFICATION) & 0xff, 0xed);
        let mut rig = Self { m, smmu, bar, events: 0, _folder: folder };
        rig.works();
        Some(rig)
    }

    /// The device reads these 4 bytes into its buffer, or writes its buffer there: one access for the SMMU.
    fn dma(&mut self, iova: u64, read: bool) {
        let (source, target, direction) = if read { (iova, BUFFER, 0) } else { (BUFFER, iova, TO_MEMORY) };
        for (register, value) in [(DMA_SOURCE, source), (DMA_TARGET, target), (DMA_COUNT, 4)] {
            self.m.store64(self.bar + register, value);
        }
        self.m.store64(self.bar + DMA_COMMAND, START | direction);
        self.m.poll32(self.bar + DMA_COMMAND, "DMA command", |value| u64::from(value) & START == 0);
    }

    /// Both directions of DMA to the good pages, and no event of it.
    fn works(&mut self) {
        let [from, to] = [FROM, TO].map(|page| place(self.smmu.granule, page));
        self.m.store64(from.gpa, 0x6f72_6421);
        self.m.store64(to.gpa, 0);
        self.dma(from.iova, true);
        self.dma(to.iova, false);
        let events = self.smmu.events(&mut self.m);
        let what = format!("{:?}, after {} records", self.smmu.granule, self.events);
        assert_eq!((self.m.load64(to.gpa), events), (0x6f72_6421, vec![]), "{what}");
    }

    /// One device write and one device read of the victim, and what each must give.
    fn breaks(&mut self, leaf: u64, kind: u64, expected: [bool; 2]) {
        let iova = place(self.smmu.granule, VICTIM).iova;
        self.smmu.map(&mut self.m, iova, leaf);
        for (read, faults) in [false, true].into_iter().zip(expected) {
            self.dma(iova, read);
            let what = format!("{:?}, event {kind:#x}, read {read}", self.smmu.granule);
            if faults {
                self.tells(record(kind, STREAM, Some((read, CLASS_IN)), iova, 0), &what);
            } else {
                assert_eq!(self.smmu.events(&mut self.m), [] as [Record; 0], "{what}");
            }
        }
        self.works();
    }

    /// The guest's queue gets this record, and no other.
    fn tells(&mut self, expected: Record, what: &str) {
        assert_eq!(self.smmu.wait_events(&mut self.m), [expected], "{what}");
        self.events += 1;
    }

    fn end(self, what: &str) {
        println!("{SEEN}{what}: {} records, each as the manual has it, with stream {STREAM}", self.events);
        self.m.end(PROCESSES);
    }
}

#[test]
fn host_device_that_a_page_forbids_is_told_with_stream_address_and_direction() {
    for granule in [Granule::K4, Granule::K16, Granule::K64] {
        let Some(mut rig) = Rig::start("host-pages", granule) else { return };
        let page = place(granule, VICTIM).gpa;
        rig.breaks(page | READ_WRITE, 0, [false, false]);
        rig.breaks(0, F_TRANSLATION, [true, true]);
        rig.breaks(page | READ_ONLY, F_PERMISSION, [true, false]);
        rig.breaks(page | READ_WRITE & !ACCESSED, F_ACCESS, [true, true]);
        rig.breaks(1 << 40 | READ_WRITE, F_ADDR_SIZE, [true, true]);
        rig.breaks(page | READ_WRITE, 0, [false, false]);
        rig.end(&format!("{granule:?}"));
    }
}

#[test]
fn host_device_under_a_bad_context_descriptor_is_told_and_mended() {
    let Some(mut rig) = Rig::start("host-contexts", Granule::K4) else { return };
    let good = rig.smmu.context();
    let [word, tables, _, mair] = good;
    let cases = [
        ("V is 0", word & !(1 << 31)),
        ("the tables are AArch32's", word & !(1 << 41)),
        ("TG0 is reserved", word | 0b11 << 6),
        ("T0SZ is beyond 39", word & !0x3f | 40),
        ("a terminated transaction would not abort", word & !(1 << 46)),
    ];
    for (what, word) in cases {
        rig.smmu.put_context(&mut rig.m, [word, tables, 0, mair]);
        rig.smmu.renew_context(&mut rig.m);
        let iova = place(Granule::K4, TO).iova;
        rig.dma(iova, false);
        rig.tells(record(C_BAD_CD, STREAM, None, 0, 0), what);
        rig.smmu.put_context(&mut rig.m, good);
        rig.smmu.renew_context(&mut rig.m);
        rig.works();
    }
    rig.end("bad context descriptors");
}

#[test]
fn host_device_beyond_guest_memory_is_held_back_and_no_event_of_the_guests() {
    let Some(mut rig) = Rig::start("host-beyond", Granule::K4) else { return };
    let iova = place(Granule::K4, VICTIM).iova;
    // The guest's own table allows it, and stage 2 has nothing there. (The first address that no RAM has, and a high
    // one.)
    for gpa in [RAM_END, NOWHERE] {
        rig.smmu.map(&mut rig.m, iova, gpa | READ_WRITE);
        for read in [false, true] {
            rig.dma(iova, read);
        }
        rig.works();
    }
    println!("{SEEN}4 transfers beyond guest memory: held back, without an event for the guest");
    rig.m.end(PROCESSES);
}

/// An address within the guest's DMA domain that nothing is mapped at.
const UNMAPPED: u64 = 0x1234_5000;

/// Prints the lines of the SMMU driver since the last time.
const LOG: &str = "dmesg -c | grep arm-smmu-v3";

#[test]
fn linux_logs_a_translation_fault_of_a_host_device_and_goes_on() {
    let Some(with_device) = with_device() else { return };
    let vm = launch_as(GuestFiles::cached(), "host-faultlog", |options| {
        options.memory = "256M".into();
        options.extra = format!("quiet {STRICT}");
        with_device(options);
    });
    let Some(mut vm) = vm else { return };
    vm.console.shell(BOOT).unwrap();
    let mut run = |command: &str| {
        let answer = vm.console.run(command, COMMAND).unwrap();
        assert_eq!(answer.code, 0, "{command}: {}", answer.output);
        answer.output.trim().to_owned()
    };
    assert_eq!(
        run(&format!("cat {DEVICE}/vendor {DEVICE}/device {DEVICE}/iommu_group/type")),
        "0x1234\n0x11e8\nDMA"
    );
    // No driver has the device: Memory Space, Bus Master.
    run(&format!("printf '\\006\\000' | dd of={DEVICE}/config bs=1 seek=4 conv=notrunc 2>/dev/null"));
    let resource = run(&format!("head -n1 {DEVICE}/resource"));
    let bar = resource.split_whitespace().next().unwrap().trim_start_matches("0x");
    let bar = u64::from_str_radix(bar, 16).unwrap();
    run(&format!("{LOG} || true"));

    let mut dma = |source: u64, target: u64, command: u64| {
        for (register, value) in
            [(DMA_SOURCE, source), (DMA_TARGET, target), (DMA_COUNT, 4), (DMA_COMMAND, command)]
        {
            run(&format!("devmem {:#x} 64 {value:#x}", bar + register));
        }
        run("for i in $(seq 30); do dmesg | grep -q 'event 0x' && break; sleep 1; done; sleep 1");
        run(LOG)
    };
    for (read, log) in [(0, dma(BUFFER, UNMAPPED, START | TO_MEMORY)), (1, dma(UNMAPPED, BUFFER, START))] {
        // The driver's wording differs between versions; the record that it prints is the manual's.
        let word = |value: u64| format!("{value:#018x}");
        for expected in
            [word(F_TRANSLATION | STREAM << 32), word(read << 35 | CLASS_IN << 40), word(UNMAPPED)]
        {
            assert!(log.contains(&expected), "no {expected} in the guest's log:\n{log}");
        }
        assert_eq!(log.matches("event 0x10 received").count(), 1, "{log}");
        let line = log.lines().find(|line| line.contains("event: "));
        println!("{SEEN}guest: {}", line.and_then(|line| Some(line.split_once("] ")?.1)).unwrap_or_default());
    }
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
}
