// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of a few instructions on the host's own KVM; left out, and counted, where there is none.

use super::*;
use crate::bus::{Bus, Counters};
use crate::console::Console;
use crate::engine::Exit;
use crate::gate::Gate;
use crate::interrupts::controller::Spi;
use crate::interrupts::vectors::Vectors;
use crate::kvm::saved::KvmRegisterV1;
use crate::rtc::Rtc;
use crate::uart::Uart;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::dirty_log::{Answer, Harvest, Harvester, Moment, OwedMap, harvest};
use ipc::shm::guest_memory;
use ipc::shm::region::Region;
use machine::layout::{RAM_BASE, UART, spi};
use std::fs::File;
use vm_memory::{Bytes, GuestAddress};

const RAM_LEN: u64 = 16 << 20;
const PAGE_LEN: u64 = 0x1000;

/// `hvc #0` with PSCI's SYSTEM_OFF.
const POWER_OFF: [u32; 3] = [0xd2b0_8000, 0xf280_0100, 0xd400_0002];
/// `b .`
const SPIN: u32 = 0x1400_0000;

struct Rig {
    parts: EngineParts,
    layout: RamLayout,
}

impl Rig {
    /// RAM with `code` at its start and `vectors` for synchronous exceptions; none where there is no KVM.
    fn new(code: &[u32], vectors: &[u32]) -> Option<(Self, OwnedFd)> {
        let kvm = device()?;
        sys::install_kick_handler().unwrap();
        let region = RamRegion { gpa: Gpa(RAM_BASE), len: RAM_LEN, file_offset: 0 };
        let layout = RamLayout::new(vec![region]).unwrap();
        let ram = guest_memory::map(&Region::create("ram", RAM_LEN).unwrap(), &layout).unwrap();
        let log = DirtyLog::create("log", &layout).unwrap();
        let dirty = Arc::new(DirtyLog::attach(&log, &layout).unwrap());
        dirty.adopt();
        for (place, words) in [(0, code), (0x800 + 0x200, vectors)] {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            ram.write_slice(&bytes, GuestAddress(RAM_BASE + place)).unwrap();
        }
        let parts = EngineParts {
            pmu: false,
            vcpu_count: 2,
            ram: Arc::new(ram),
            register_pages: None,
            dirty,
            pins: Arc::default(),
            vectors: Arc::default(),
        };
        Some((Self { parts, layout }, kvm))
    }

    fn vm(&self, kvm: OwnedFd) -> Arc<Vm> {
        let vm = Vm::new(kvm, &self.parts, None).unwrap();
        vm.cpus[0].start_at(RAM_BASE, 0).unwrap();
        Arc::new(vm)
    }

    /// A round of harvesting.
    fn dirty_pages(&self, vm: &Vm) -> Vec<u64> {
        let mut pages = OwedMap::new(&self.layout);
        let mut end = Harvester::of(&self.parts.dirty);
        let answer = Answer::Rearmed(vm.dirty_log(DirtyLogOp::Rearm).unwrap());
        let judged = harvest(&mut [Harvest { log: &mut end, answer }], Moment::Running, &mut pages);
        assert_eq!(judged, [Exactness::Exact]);
        let all = (0..RAM_LEN / PAGE_LEN).map(|page| RAM_BASE + page * PAGE_LEN);
        all.filter(|gpa| pages.contains(Gpa(*gpa))).map(|gpa| (gpa - RAM_BASE) / PAGE_LEN).collect()
    }
}

fn device() -> Option<OwnedFd> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Some(file.into()),
        Err(error) => {
            eprintln!("SKIPPED: guests on the host's KVM: /dev/kvm cannot be opened: {error}");
            None
        }
    }
}

fn bus(vm: &Arc<Vm>) -> Bus {
    let gate = Arc::new(Gate::default());
    let irq = Spi::new(Arc::clone(vm) as Arc<_>, SPI_BASE + spi::UART);
    let uart = Arc::new(Uart::new(Console::new().unwrap(), Arc::clone(&gate), irq));
    let rtc = Rtc::new(Spi::new(Arc::clone(vm) as Arc<_>, SPI_BASE + spi::RTC), None);
    Bus { uart, rtc, remotes: Vec::new(), gate, counters: Counters::default() }
}

#[test]
fn vm_dirty_log_has_the_pages_the_guest_writes_and_no_other() {
    // Writes pages 256 and 259, then switches off.
    let code = [&[0xd2a8_0201, 0xf900_0021, 0x9140_0c21, 0xf900_0021], &POWER_OFF[..]].concat();
    let Some((rig, kvm)) = Rig::new(&code, &[]) else { return };
    let vm = rig.vm(kvm);
    let bus = bus(&vm);
    vm.dirty_log(DirtyLogOp::Enable { epoch: 1 }).unwrap();
    vm.resume().unwrap();
    assert_eq!(vm.cpus[0].run(&bus), Exit::PowerOff);
    vm.pause().unwrap();
    assert_eq!(rig.dirty_pages(&vm), [256, 259]);
    // The same once more: pages that were noted are noted again. PSCI has stopped the vCPU.
    let runnable = kvm_bindings::kvm_mp_state { mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE };
    vm.cpus[0].fd().set_mp_state(runnable).unwrap();
    vm.cpus[0].start_at(RAM_BASE, 0).unwrap();
    vm.resume().unwrap();
    assert_eq!(vm.cpus[0].run(&bus), Exit::PowerOff);
    assert_eq!(rig.dirty_pages(&vm), [256, 259]);
    assert_eq!(rig.dirty_pages(&vm), [0; 0]);
    vm.dirty_log(DirtyLogOp::Disable).unwrap();
}

#[test]
fn vm_that_is_made_after_its_dirty_log_was_switched_on_is_logged() {
    let code = [&[0xd2a8_0201, 0xf900_0021], &POWER_OFF[..]].concat();
    let Some((rig, kvm)) = Rig::new(&code, &[]) else { return };
    rig.parts.dirty.enable(1);
    let vm = rig.vm(kvm);
    vm.resume().unwrap();
    assert_eq!(vm.cpus[0].run(&bus(&vm)), Exit::PowerOff);
    vm.pause().unwrap();
    assert_eq!(rig.dirty_pages(&vm), [256]);
}

#[test]
fn vm_kicked_while_it_spins_leaves_and_its_state_survives_a_move() {
    let Some((rig, kvm)) = Rig::new(&[SPIN], &[]) else { return };
    let vm = rig.vm(kvm);
    let bus = bus(&vm);
    for _ in 0..3 {
        vm.resume().unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| vm.cpus[0].run(&bus));
            std::thread::sleep(std::time::Duration::from_millis(20));
            vm.cpus[0].kick();
            assert_eq!(running.join().unwrap(), Exit::Kicked);
        });
        vm.pause().unwrap();
    }
    // A message that comes while the machine stands still is kept, once.
    for _ in 0..2 {
        vm.signal_msi(8, 3);
    }
    let saved = vm.save().unwrap();
    assert!(saved.clock.ticks > 0);
    assert_eq!(saved.its.late_messages, [KvmMessageV1 { device_id: 8, event_id: 3 }]);
    let moved = Vm::new(device().unwrap(), &rig.parts, Some(&saved)).unwrap();
    let again = moved.save().unwrap();
    for (before, after) in saved.vcpus.iter().zip(&again.vcpus) {
        for (before, after) in before.registers.iter().zip(&after.registers) {
            assert_eq!(before, after, "{:#x}", before.id);
        }
        assert_eq!((before.mp_state, before.serror_pending), (after.mp_state, after.serror_pending));
    }
    assert_eq!(again.gic.cpu_interfaces, saved.gic.cpu_interfaces);
    assert_eq!(again.gic, saved.gic);
    assert_eq!(again.its, saved.its);
    assert_eq!(again, saved);
    moved.resume().unwrap();
    let ticks = moved.ticks().unwrap();
    assert!(ticks >= saved.clock.ticks && ticks - saved.clock.ticks < 1_000_000_000, "time goes on: {ticks}");
}

#[test]
fn vm_saves_what_routed_vectors_signalled_while_it_was_paused_and_leaves_the_others() {
    let Some((mut rig, kvm)) = Rig::new(&[SPIN], &[]) else { return };
    rig.parts.vectors = Arc::new(Vectors::new(true));
    let vm = rig.vm(kvm);
    let vector = |index, event| {
        let eventfd = new_eventfd("create a vector").unwrap();
        rig.parts.vectors.add(8, index, 1, eventfd.try_clone().unwrap()).unwrap();
        rig.parts.vectors.route(8, index, event).unwrap();
        rustix::io::write(&eventfd, &1_u64.to_ne_bytes()).unwrap();
        eventfd
    };
    let (_routed, masked) = (vector(0, Some(3)), vector(1, None));
    assert_eq!(vm.waiting_vectors(), 1);
    let saved = vm.save().unwrap();
    assert_eq!(saved.its.late_messages, [KvmMessageV1 { device_id: 8, event_id: 3 }]);
    assert_eq!(vm.waiting_vectors(), 0);
    assert_eq!(vm.save().unwrap().its, saved.its, "who goes on after all has it as well");
    assert!(doorbell::take_eventfd(&masked), "what is masked is its function's to remember");
    // One device's flood does not keep another's message out.
    (0..=u32::from(VECTORS_MAX) * 16).for_each(|event| vm.signal_msi(16, event));
    vm.signal_msi(24, 9);
    let late = vm.save().unwrap().its.late_messages;
    assert_eq!(late.last(), Some(&KvmMessageV1 { device_id: 24, event_id: 9 }));
}

#[test]
fn vm_access_that_no_syndrome_describes_is_an_abort_for_the_guest() {
    // VBAR_EL1 = RAM + 0x800; LDP from the UART; never past it.
    assert_eq!(UART.base, 0x0900_0000);
    let code = [0xd2a8_0004, 0xf281_0004, 0xd518_c004, 0xd2a1_2001, 0xa940_0c22, SPIN];
    let Some((rig, kvm)) = Rig::new(&code, &POWER_OFF) else { return };
    let vm = rig.vm(kvm);
    vm.resume().unwrap();
    assert_eq!(vm.cpus[0].run(&bus(&vm)), Exit::PowerOff, "its handler switches the machine off");
}

#[test]
fn vm_saved_state_that_cannot_be_is_refused_by_name() {
    let Some((rig, kvm)) = Rig::new(&[SPIN], &[]) else { return };
    let good = rig.vm(kvm).save().unwrap();
    let refuse = |change: &dyn Fn(&mut SavedKvm)| {
        let mut saved = good.clone();
        change(&mut saved);
        match Vm::new(device().unwrap(), &rig.parts, Some(&saved)) {
            Ok(_) => panic!("it was taken"),
            Err(failure) => failure.why,
        }
    };
    assert!(refuse(&|saved| saved.clock.hz += 1).contains("this host's counter at"));
    let register = |id, len| KvmRegisterV1 { id, value: vec![0xff; len] };
    let unknown = refuse(&|saved| saved.vcpus[0].registers.push(register(0x6030_0000_0013_ffff, 8)));
    assert!(unknown.contains("no register of that id"), "{unknown}");
    let short = refuse(&|saved| saved.vcpus[1].registers[0].value.truncate(1));
    assert!(short.contains("1 bytes were saved"), "{short}");
    // PSTATE of no exception level that a vCPU has.
    let pstate = 0x6030_0000_0010_0042;
    let odd = refuse(&|saved| {
        let registers = &mut saved.vcpus[0].registers;
        registers.iter_mut().find(|register| register.id == pstate).unwrap().value = vec![0xff; 8];
    });
    assert!(odd.contains("KVM refuses"), "{odd}");
    assert!(refuse(&|saved| saved.gic.distributor.truncate(1)).contains("registers were saved"));
    assert!(refuse(&|saved| saved.gic.redistributors.truncate(1)).contains("for other vCPUs"));
    assert!(refuse(&|saved| saved.its.registers.truncate(1)).contains("registers were saved"));
    assert!(
        refuse(&|saved| saved.its.late_messages.resize(20_000, KvmMessageV1::default())).contains("20000")
    );
}

#[test]
fn vm_vector_is_on_its_irqfd_while_it_means_something_and_the_machine_runs() {
    let Some((mut rig, kvm)) = Rig::new(&[SPIN], &[]) else { return };
    let vectors = Arc::new(Vectors::new(true));
    rig.parts.vectors = Arc::clone(&vectors);
    let vm = rig.vm(kvm);
    vectors.connect(Arc::<Vm>::downgrade(&vm));
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    vectors.add(8, 0, 1, eventfd.try_clone().unwrap()).unwrap();
    // Whether a signal is left for whoever reads the eventfd: KVM takes it in the same step as it comes.
    let waits = || {
        rustix::io::write(&eventfd, &1_u64.to_ne_bytes()).unwrap();
        rustix::io::read(&eventfd, &mut [0; 8]).is_ok()
    };
    vectors.route(8, 0, Some(3)).unwrap();
    assert!(waits(), "the machine does not run");
    for _ in 0..2 {
        vm.resume().unwrap();
        assert!(!waits());
        vectors.route(8, 0, Some(4)).unwrap();
        assert!(!waits(), "it means something else, and is listened to");
        vectors.route(8, 0, None).unwrap();
        assert!(waits());
        vectors.route(8, 0, Some(3)).unwrap();
        assert!(!waits());
        vm.pause().unwrap();
        assert!(waits());
    }
    vm.resume().unwrap();
    // What is no eventfd KVM refuses; it means nothing then, and the others are as they were.
    vectors.add(8, 1, 1, std::fs::File::open("/dev/null").unwrap().into()).unwrap();
    assert!(vectors.route(8, 1, Some(5)).unwrap_err().contains("irqfd of a vector"));
    assert!(!waits());
    vm.pause().unwrap();
    vm.resume().unwrap();
}
