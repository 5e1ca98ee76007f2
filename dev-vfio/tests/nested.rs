// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's IOMMU by iommufd, with a device whose DMA a test can steer: QEMU's `edu`, bound to vfio-pci.
//!
//! Without such a device every test here says that it is skipped; the Arm lab has one. The guest is the test itself: it
//! lays out tables in RAM, gives the vSMMU's orders, and looks at what arrived.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod edu;

use std::time::{Duration, Instant};

use dev_vfio::backend::Eventfds;
use dev_vfio::iommu::fault_queue::Losses;
use dev_vfio::iommu::{AttachError, HostIommu, Invalidated};
use dev_vfio::pci::intx::Pin;
use dev_vfio::physical::dirty::Method;
use dev_vfio::physical::error::KernelError;
use dev_vfio::physical::events::DEPTH;
use dev_vfio::physical::interrupts::Interrupts;
use dev_vfio::physical::journal::HostJournal;
use dev_vfio::physical::sys::{self, cdev};
use edu::{BASE, Guest, STREAM, Vm, command};
use ipc::addr::StreamId;
use ipc::protocol::control::Exactness;
use ipc::protocol::stage1::{Attachment, Fault};
use ipc::shm::checkpoint::Checkpoint;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smmu_arch::Options;
use smmu_arch::spec::commands::Opcode;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Event numbers (IHI 0070 section 7.3).
const C_BAD_CD: u64 = 0x0a;
const F_TRANSLATION: u64 = 0x10;
const F_ACCESS: u64 = 0x12;
const F_PERMISSION: u64 = 0x13;

/// Two pages of IOVA and where they lead.
const SOURCE: u64 = 0x20_0000;
const TARGET: u64 = 0x10_0000;
const SOURCE_PAGE: u64 = BASE + 0x30_1000;
const TARGET_PAGE: u64 = BASE + 0x30_0000;
const OTHER_PAGE: u64 = BASE + 0x30_2000;
const TEXT: &[u8; 16] = b"through 2 stages";

fn vm() -> Option<Vm> {
    edu::named().map(|address| Vm::new(&address, edu::options()).unwrap())
}

/// A VM whose device is behind stage 1, with both pages mapped.
fn translated() -> Option<Vm> {
    let mut vm = vm()?;
    vm.guest.map(SOURCE, SOURCE_PAGE, 0);
    vm.guest.map(TARGET, TARGET_PAGE, 0);
    vm.guest.write(SOURCE_PAGE, TEXT);
    vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
    Some(vm)
}

/// Carries the text from one address to another, by the device.
fn copy(vm: &Vm, from: u64, to: u64) {
    vm.edu.read_memory(from, TEXT.len());
    vm.edu.write_memory(to, TEXT.len());
}

/// All faults that come within a moment, as (event, StreamID, address, whether it was a read).
fn faults(vm: &mut Vm) -> Vec<(u64, u64, u64, bool)> {
    let mut found = Vec::new();
    let mut losses = Losses::default();
    let until = Instant::now() + Duration::from_secs(2);
    while found.is_empty() && Instant::now() < until {
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::from_borrowed_fd(vm.iommu.events(), PollFlags::IN)], Some(&wait)).unwrap();
        while let Some(entry) = vm.iommu.next_fault() {
            let _ = losses.before(&entry);
            let Some(Fault::Record(record)) = entry.fault else { panic!("{entry:?}") };
            found.push((record[0] & 0xff, record[0] >> 32, record[2], record[1] >> 35 & 1 != 0));
        }
    }
    found
}

#[test]
fn dma_goes_through_both_stages_in_bypass_through_one_and_in_abort_nowhere() {
    let Some(mut vm) = vm() else { return };
    vm.guest.write(SOURCE_PAGE, TEXT);
    copy(&vm, SOURCE_PAGE, TARGET_PAGE);
    assert_eq!(vm.guest.read(TARGET_PAGE), [0; 16], "a device that was just taken is attached to abort");

    vm.iommu.attach(STREAM, Attachment::Bypass).unwrap();
    copy(&vm, SOURCE_PAGE, TARGET_PAGE);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT, "bypass: the device's addresses are guest physical");

    vm.guest.map(SOURCE, SOURCE_PAGE, 0);
    vm.guest.map(TARGET, OTHER_PAGE, 0);
    vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
    copy(&vm, SOURCE, TARGET);
    assert_eq!(&vm.guest.read(OTHER_PAGE), TEXT, "stage 1: they are the guest's own");

    vm.guest.write(TARGET_PAGE, &[0; 16]);
    for aborted in [Attachment::Abort, Attachment::Stage1([0, 0])] {
        vm.iommu.attach(STREAM, aborted).unwrap();
        vm.edu.write_memory(TARGET_PAGE, 16);
        assert_eq!(vm.guest.read(TARGET_PAGE), [0; 16], "{aborted:?}");
    }
}

#[test]
fn next_life_takes_over_what_a_life_that_died_has_made_and_the_dma_goes_on() {
    let Some(mut vm) = translated() else { return };
    let journal = HostJournal::new(&Checkpoint::create("host-journal").unwrap()).unwrap();
    vm.iommu = vm.iommu.kept_in(Some(journal.clone()));
    vm.iommu.attach(STREAM, Attachment::Bypass).unwrap();
    vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
    for turn in 0..3 {
        vm.guest.write(TARGET_PAGE, &[0; 16]);
        let (next, calls) = vm.die_and_adopt(&journal).unwrap();
        vm = next;
        // What the SMMU is, whether the device logs, and a new queue of events for the one that is gone.
        assert_eq!(calls, 4, "{:?}", sys::made().collect::<Vec<_>>());
        copy(&vm, SOURCE, TARGET);
        assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT, "attached as it was, turn {turn}");
        // As the vSMMU says then: there is nothing to be made.
        let before = sys::calls(sys::Kind::Other);
        vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
        assert_eq!(sys::calls(sys::Kind::Other), before);
        vm.edu.write_memory(TARGET + 0x1000, 16);
        // The device writes in several pieces.
        assert_eq!(faults(&mut vm).first(), Some(&(F_TRANSLATION, 8, TARGET + 0x1000, false)));
    }
    // One that dies while it exchanges the page table: it is attached to either, and the next attachment is made.
    journal.begin_exchange();
    vm = vm.die_and_adopt(&journal).unwrap().0;
    copy(&vm, SOURCE, TARGET);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT, "no page table is destroyed that is in use");
    let before = sys::calls(sys::Kind::Other);
    vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
    assert_eq!(sys::calls(sys::Kind::Other) - before, 3, "made, attached, and the one before destroyed");
    copy(&vm, SOURCE, TARGET);
    // One that ends in order leaves nothing to go on with.
    drop(vm);
    assert_eq!(journal.left(), None);
}

#[test]
fn stale_translation_is_gone_when_an_invalidation_has_returned() {
    let Some(mut vm) = translated() else { return };
    copy(&vm, SOURCE, TARGET);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT);
    vm.guest.write(TARGET_PAGE, &[0; 16]);
    vm.guest.map(TARGET, OTHER_PAGE, 0);
    vm.edu.write_memory(TARGET, 16);
    assert_eq!(
        &vm.guest.read(TARGET_PAGE),
        TEXT,
        "the SMMU has the old entry cached: else this shows nothing"
    );
    vm.guest.write(TARGET_PAGE, &[0; 16]);
    vm.guest.write(OTHER_PAGE, &[0; 16]);
    assert_eq!(vm.iommu.invalidate(&[vm.guest.tlbi_va(TARGET)]), Invalidated { done: 1, refused: false });
    vm.edu.write_memory(TARGET, 16);
    assert_eq!((vm.guest.read(TARGET_PAGE), &vm.guest.read(OTHER_PAGE)), ([0; 16], TEXT));

    // An attachment alone drops them too, also one of the very same words.
    vm.guest.map(TARGET, TARGET_PAGE, 0);
    vm.iommu.attach(STREAM, vm.guest.stage1()).unwrap();
    vm.edu.write_memory(TARGET, 16);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT);
}

#[test]
fn context_descriptor_is_read_again_after_cfgi_cd() {
    let Some(mut vm) = translated() else { return };
    copy(&vm, SOURCE, TARGET);
    vm.guest.break_context(true);
    assert!(!vm.iommu.invalidate(&[command(Opcode::CfgiCd)]).refused);
    vm.edu.write_memory(TARGET, 4);
    let found = faults(&mut vm);
    assert_eq!(found.first().map(|fault| (fault.0, fault.1)), Some((C_BAD_CD, 8)), "{found:x?}");
    vm.guest.break_context(false);
    assert!(!vm.iommu.invalidate(&[command(Opcode::CfgiCdAll)]).refused);
    vm.guest.write(TARGET_PAGE, &[0; 16]);
    copy(&vm, SOURCE, TARGET);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT);
}

#[test]
fn faults_arrive_with_event_stream_address_and_direction() {
    let Some(mut vm) = translated() else { return };
    vm.edu.write_memory(0x70_0000, 4);
    assert_eq!(faults(&mut vm), [(F_TRANSLATION, 8, 0x70_0000, false)]);
    vm.edu.read_memory(0x71_0000, 4);
    assert_eq!(faults(&mut vm), [(F_TRANSLATION, 8, 0x71_0000, true)]);
    for (attributes, event) in [(Guest::READ_ONLY, F_PERMISSION), (Guest::NOT_ACCESSED, F_ACCESS)] {
        vm.guest.map(TARGET, TARGET_PAGE, attributes);
        assert!(!vm.iommu.invalidate(&[vm.guest.tlbi_va(TARGET)]).refused);
        vm.edu.write_memory(TARGET, 4);
        assert_eq!(faults(&mut vm), [(event, 8, TARGET, false)]);
    }
    assert_eq!(vm.guest.read(TARGET_PAGE), [0; 16]);
}

#[test]
fn faults_too_many_for_the_queue_are_counted_as_lost() {
    let Some(mut vm) = translated() else { return };
    // The device faults once for every 4 bytes: 1024 a transfer.
    let transfers = u64::from(DEPTH) / 1024 + 2;
    for _ in 0..transfers {
        vm.edu.write_memory(0x70_0000, 4096);
    }
    let (mut told, mut lost, mut losses) = (0, 0, Losses::default());
    // The kernel goes on telling for a while: until nothing has come for half a second.
    let wait = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    while poll(&mut [PollFd::from_borrowed_fd(vm.iommu.events(), PollFlags::IN)], Some(&wait)) == Ok(1) {
        while let Some(entry) = vm.iommu.next_fault() {
            lost += u64::from(losses.before(&entry));
            told += u64::from(entry.fault.is_some());
        }
    }
    println!("SEEN: {told} faults told, {lost} lost, of {transfers} x 1024 accesses");
    // More than the queue holds may be told, for it is read while they come. The SMMU's own queue is shorter: what that
    // loses nobody counts.
    assert!(told > 0 && told + lost <= transfers * 1024, "{told} {lost}");
    vm.edu.write_memory(0x70_0000, 4);
    assert_eq!(faults(&mut vm).len(), 1, "after a loss the next fault is told again");
}

#[test]
fn burst_of_invalidations_is_one_ioctl() {
    let Some(mut vm) = translated() else { return };
    let burst: Vec<[u64; 2]> = (0..500).map(|page| vm.guest.tlbi_va(TARGET + page * 4096)).collect();
    let before = sys::calls(sys::Kind::Invalidate);
    let start = Instant::now();
    assert_eq!(vm.iommu.invalidate(&burst), Invalidated { done: 500, refused: false });
    let calls = sys::calls(sys::Kind::Invalidate) - before;
    println!("SEEN: 500 invalidations and their SYNC: {calls} ioctl, {} us", start.elapsed().as_micros());
    assert_eq!(calls, 1);
}

#[test]
fn batch_with_a_bad_command_is_done_up_to_it_exactly() {
    let Some(mut vm) = translated() else { return };
    for at in [0_usize, 1, 62, 63, 64, 199] {
        let mut batch = vec![command(Opcode::TlbiNhAll); 200];
        batch[at] = command(Opcode::Sync);
        assert_eq!(vm.iommu.invalidate(&batch), Invalidated { done: at, refused: true }, "bad at {at}");
    }
    let another_stream = [u64::from(Opcode::CfgiCdAll.0) | 9 << 32, 0];
    assert_eq!(vm.iommu.invalidate(&[another_stream]), Invalidated { done: 0, refused: true });
}

#[test]
fn attachment_that_cannot_be_nested_leaves_what_was() {
    let Some(mut vm) = translated() else { return };
    let Attachment::Stage1([word0, word1]) = vm.guest.stage1() else { panic!() };
    let stage2 = [word0 & !0b1110 | 0b1100, word1];
    for words in [stage2, [word0, word1 | 1 << 46]] {
        assert_eq!(vm.iommu.attach(STREAM, Attachment::Stage1(words)), Err(AttachError::Words(words)));
    }
    let other = StreamId(9);
    assert_eq!(vm.iommu.attach(other, Attachment::Bypass), Err(AttachError::Stream(other)));
    copy(&vm, SOURCE, TARGET);
    assert_eq!(&vm.guest.read(TARGET_PAGE), TEXT);
}

#[test]
fn message_reaches_its_eventfd_by_the_window_that_the_guest_maps_flat() {
    const MSI: u32 = 1;
    let Some(mut vm) = translated() else { return };
    let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    cdev::set_irqs(vm.cdev.as_fd(), MSI, 0, &[signal.as_fd()]).unwrap();
    let came = |vm: &Vm| {
        vm.edu.interrupt();
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        let came = poll(&mut [PollFd::new(&signal, PollFlags::IN)], Some(&wait)).unwrap() == 1;
        let _ = rustix::io::read(&signal, &mut [0; 8]);
        came
    };
    assert!(!came(&vm), "the guest has not mapped the window");
    assert!(faults(&mut vm).iter().any(|fault| fault.0 == F_TRANSLATION && fault.2 >> 20 == 0x80));
    vm.guest.map(0x800_0000, 0x800_0000, 0);
    vm.iommu.invalidate(&[command(Opcode::TlbiNhAll)]);
    assert!(came(&vm), "it has now");
    vm.iommu.attach(STREAM, Attachment::Bypass).unwrap();
    assert!(came(&vm), "and in bypass it is there anyway");
    cdev::set_irqs(vm.cdev.as_fd(), MSI, 0, &[]).unwrap();
}

#[test]
fn pin_masks_itself_and_speaks_again_when_it_is_unmasked() {
    let Some(mut vm) = vm() else { return };
    let intx = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let eventfds = Eventfds { intx: Some(Arc::clone(&intx)), ..Eventfds::default() };
    let came = || {
        let wait = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
        let came = poll(&mut [PollFd::new(&*intx, PollFlags::IN)], Some(&wait)).unwrap() == 1;
        let _ = rustix::io::read(&*intx, &mut [0; 8]);
        came
    };
    let pin = Some(Pin { automasked: true });
    assert_eq!(Interrupts::count(&vm.cdev), (0, pin), "MSI is not for guests, and there is no MSI-X");
    assert!(vm.edu.interrupts().offer(&eventfds).unwrap().is_none());
    assert!(!came());
    vm.edu.raise();
    assert!(came() && !came(), "it has masked itself");
    vm.edu.interrupts().unmask_intx().unwrap();
    assert!(came(), "it still wants something");
    vm.edu.acknowledge();
    vm.edu.interrupts().unmask_intx().unwrap();
    assert!(!came());
    // A next life of the process, which has no part of this one but the open file.
    let mut second = Interrupts::none(Arc::clone(&vm.cdev));
    vm.edu.raise();
    assert!(!came(), "it has disconnected what the first one left");
    assert!(second.offer(&eventfds).unwrap().is_none());
    assert!(came());
    vm.edu.acknowledge();
}

#[test]
fn second_life_of_the_process_takes_the_binding_over() {
    let Some(vm) = translated() else { return };
    // As after a death: the coordinator's duplicates keep both files open, and nothing was undone.
    let (cdev, iommu) = (vm.cdev.try_clone().unwrap(), vm.iommu_file.try_clone().unwrap());
    let Vm { guest, iommu: first, edu: _edu, .. } = vm;
    let mut second = Vm::over(cdev, iommu, guest, edu::options()).unwrap();
    second.iommu.attach(STREAM, second.guest.stage1()).unwrap();
    copy(&second, SOURCE, TARGET);
    assert_eq!(&second.guest.read(TARGET_PAGE), TEXT);
    drop(second);
    // Its objects are all gone: there is nothing left for it to undo.
    drop(first);
}

#[test]
fn device_that_another_process_has_bound_is_in_use() {
    let Some(_vm) = translated() else { return };
    let refused = Vm::new(&edu::named().unwrap(), edu::options()).err().unwrap();
    assert_eq!(refused, KernelError::InUse);
}

#[test]
fn guest_that_was_promised_more_than_the_host_has_is_refused_by_field() {
    let Some(address) = edu::named() else { return };
    let options = Options { ssidsize: 16, oas: 48, ..Options::default() };
    let refused = Vm::new(&address, options).err().unwrap().to_string();
    assert!(refused.contains("IDR1.SSIDSIZE: guest 16, host 0"), "{refused}");
    assert!(refused.contains("IDR5.OAS: guest 48, host 44"), "{refused}");
    println!("{refused}");
}

#[test]
fn dirty_tracking_is_the_best_that_this_host_has() {
    let Some(mut vm) = translated() else { return };
    println!("SEEN: written pages are found by: {}", vm.iommu.dirty_method().as_str());
    let log = vm.guest.log();
    vm.iommu.set_dirty_tracking(true);
    vm.edu.write_memory(TARGET, 16);
    let exactness = vm.iommu.read_dirty(&log);
    let pages = vm.guest.pages(&log);
    match vm.iommu.dirty_method() {
        Method::Stage2 => {
            assert_eq!((exactness, pages.count()), (Exactness::Exact, 1));
            assert!(pages.contains(ipc::addr::Gpa(TARGET_PAGE)));
        }
        Method::DeviceLog | Method::Everything => assert_eq!(exactness, Exactness::Unseen),
    }
}

#[test]
fn host_that_does_not_nest_is_refused_by_what_it_lacks() {
    let Some(address) = edu::named() else { return };
    match Vm::new(&address, edu::options()) {
        Ok(_) => println!("SKIPPED: what a host that does not nest is told: this one does"),
        Err(refused) => {
            let refused = refused.to_string();
            println!("{refused}");
            assert!(refused.contains("IOMMU_VIOMMU_ALLOC") && refused.contains("CANWBS"), "{refused}");
        }
    }
}
