// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's process that has a next life: its stream is attached there beside the life before, and the one that is
//! not over is the one that the guest's commands reach.

use super::*;

/// A next life of the device's process, which has greeted.
fn next_life(process: &mut Life<SmmuProgram>, epoch: u32) -> Device {
    let (ours, theirs) = channel::pair().unwrap();
    process.rewire(VFIO0, epoch, theirs).unwrap();
    let device = Device { channel: Channel::from_fd(ours, Hello::new(Role::Vfio, epoch)) };
    device.channel.hello(Role::Smmu, soon()).unwrap();
    device
}

/// A paused process whose stream is at stage 1, its device, and the guest.
fn paused_at_stage1(vm: &Vm) -> (Life<SmmuProgram>, Device, Guest) {
    let (mut process, device, guest) = start(vm);
    enable_translation(&device, &guest);
    write_ste(&guest, STE);
    guest.command(0, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 2);
    let ((), requests) = obeying(&device, || guest.await_cons(2));
    assert_eq!(requests, attach(Attachment::Stage1(STE)));
    assert_eq!(obeying(&device, || process.pause()).0.unwrap(), Quiescence::NONE);
    (process, device, guest)
}

const STE: [u64; 2] = [CONTEXT | 0b1011, 0b1101_0100];

/// The guest invalidates and waits: this device is told so, before its command completes.
fn assert_reached(guest: &Guest, device: &Device, at: u64) {
    guest.command(at, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(at + 1, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, at + 2);
    let ((), requests) = obeying(device, || guest.await_cons(u32::try_from(at + 2).unwrap()));
    assert_eq!(requests, [Stage1Request::Invalidate([0x10, 0])], "and it is attached already");
}

#[test]
fn a_next_life_is_attached_beside_the_one_before_and_reached_when_that_is_over() {
    let vm = Vm::new();
    let (mut process, device, guest) = paused_at_stage1(&vm);
    device.tell(&Notice::Fault(Fault::Record(fault(0x1000))));
    await_counter(&process, "vfio0.faults_waiting", 1);
    let next = next_life(&mut process, 2);
    let another = || channel::pair().unwrap().0;
    assert!(process.rewire(VFIO0, 3, another()).unwrap_err().why.contains("next life already"));
    assert!(process.rewire(VFIO1, 3, another()).unwrap_err().why.contains("not behind"));
    let (replayed, requests) = obeying(&next, || process.replay().unwrap().unwrap());
    assert_eq!(replayed, [stream(Attachment::Stage1(STE), ReplayOutcome::Attached)]);
    assert_eq!(requests, attach(Attachment::Stage1(STE)));
    assert_eq!(device.requests(Deadline::after(A_MOMENT)), None, "the life before keeps what it has");
    next.tell(&Notice::Fault(Fault::Record(fault(0x2000))));
    // Ended by the coordinator; whether that was noticed before the guest runs makes no difference.
    drop(device);
    process.resume().unwrap();
    guest.await_value(Register::EVENTQ_PROD, 2);
    assert_eq!([event(&guest, 0), event(&guest, 1)], [fault(0x1000), fault(0x2000)]);
    assert_reached(&guest, &next, 2);
    assert!(vm.given_up.try_recv().is_err(), "nobody was named");
    // It is one like any other from then on.
    drop(next);
    await_counter(&process, "vfio0.up", 0);
    guest.command(4, sync(ComplSignal::None));
    guest.command(5, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(6, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 7);
    guest.await_cons(6);
    process.dma_ended(VFIO0).unwrap();
    guest.await_cons(7);
}

#[test]
fn a_next_life_that_does_not_come_to_be_leaves_the_one_before_as_it_was() {
    let vm = Vm::new();
    let (mut process, device, guest) = paused_at_stage1(&vm);
    let mut at = 2;
    for epoch in 2..8 {
        let next = next_life(&mut process, epoch);
        if epoch % 3 == 0 {
            // It is not named for it: by its name the life before would be ended.
            next.tell(&Notice::Done { sequence: 7, refused: 0 });
            let replayed = process.replay().unwrap().unwrap();
            assert!(matches!(replayed[0].outcome, ReplayOutcome::Aborted(_)), "{replayed:?}");
        } else if epoch % 3 == 1 {
            obeying(&next, || process.replay().unwrap().unwrap());
        }
        drop(next);
        process.resume().unwrap();
        assert_reached(&guest, &device, at);
        at += 2;
        assert_eq!(obeying(&device, || process.pause()).0.unwrap(), Quiescence::NONE);
    }
    assert!(vm.given_up.try_recv().is_err(), "nobody was named");
}

#[test]
fn the_end_of_a_devices_dma_is_that_of_both_its_lives() {
    let vm = Vm::new();
    let (mut process, device, guest) = paused_at_stage1(&vm);
    let next = next_life(&mut process, 2);
    drop(device);
    process.dma_ended(VFIO0).unwrap();
    drop(next);
    process.resume().unwrap();
    guest.command(2, about_stream(Opcode::CfgiSte, STREAM.0));
    guest.command(3, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 4);
    guest.await_cons(4);
    assert_eq!(counter(&process, "vfio0.dma_ended"), 1);
}

#[test]
fn orders_wait_for_the_next_life_of_a_process_that_died_and_whose_devices_dma_goes_on() {
    let vm = Vm::new();
    let (mut process, device, guest) = paused_at_stage1(&vm);
    process.resume().unwrap();
    // A physical device's, of which nobody says that its DMA has ended.
    drop(device);
    await_counter(&process, "vfio0.up", 0);
    guest.command(2, Command { qw0: u64::from(Opcode::TlbiNhAll.0), qw1: 0 });
    guest.command(3, sync(ComplSignal::None));
    guest.write(Register::CMDQ_PROD, 4);
    guest.await_cons(3);
    let next = next_life(&mut process, 2);
    // It may still use what is invalid: only its answer says that it does not.
    assert_eq!(next.requests(soon()).map(|(_, requests)| requests), Some(attach(Attachment::Stage1(STE))));
    assert_eq!(guest.read(Register::CMDQ_CONS), 3, "its answer is waited for");
    next.tell(&Notice::Done { sequence: 1, refused: 0 });
    guest.await_cons(4);
    assert!(vm.given_up.try_recv().is_err(), "nobody was named");
}
