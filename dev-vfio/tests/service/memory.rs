// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's memory in the guest, and the guest's at the server.

use super::*;

const EVERYWHERE: (u64, u64, bool) = (0, 1 << 48, false);
const ALL_PAGES: u64 = RAM_LEN / 4096;

#[test]
fn memory_of_a_bar_is_offered_without_the_msix_pages_and_shown_while_it_is_enabled() {
    let mut vm = Vm::start(Server::with_memory(SealFlags::SHRINK));
    let asked = |vm: &Vm| std::mem::take(&mut *vm.asked.lock().unwrap());
    let window = DeviceWindow { region: 1, offset: 0, len: 0x2000, file_offset: 0, writable: true };
    assert_eq!(asked(&vm), [FunctionRequest::AddWindow(window)]);
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(asked(&vm), [FunctionRequest::ShowWindows { shown: true }]);
    vm.write(CONFIG_REGION, 4, 2, 0b111);
    assert_eq!(asked(&vm), [], "no change");
    vm.write(CONFIG_REGION, 4, 2, 0b100);
    assert_eq!(asked(&vm), [FunctionRequest::ShowWindows { shown: false }]);
    vm.write(CONFIG_REGION, 4, 2, 0b010);
    vm.server.connection.close();
    vm.assert_failed("closed");
    let both = [FunctionRequest::ShowWindows { shown: true }, FunctionRequest::ShowWindows { shown: false }];
    assert_eq!(asked(&vm), both, "a device that has failed has no memory");
}

#[test]
fn guest_ram_is_given_to_a_server_only_in_bypass_and_only_if_that_was_chosen() {
    let mut vm = Vm::start(Server::good());
    vm.attach(Attachment::Bypass);
    assert_eq!(vm.windows(), [EVERYWHERE], "not unless it is configured");

    let mut vm = Vm::start_with(Server::good(), true);
    assert_eq!(vm.windows(), [EVERYWHERE]);
    vm.attach(Attachment::Abort);
    assert_eq!(vm.windows(), [EVERYWHERE]);
    vm.attach(Attachment::Bypass);
    let behind = RAM + RAM_LEN;
    let given = [(0, RAM, false), (RAM, RAM_LEN, true), (behind, (1 << 48) - behind, false)];
    assert_eq!(vm.windows(), given);
    {
        let windows = vm.server.device.windows.lock().unwrap();
        let (file, offset) = windows[&RAM].memory.as_ref().unwrap();
        rustix::io::pwrite(file, b"direct", offset + 0x2000).unwrap();
    }
    assert_eq!(vm.dma_read(RAM + 0x2000, 6).unwrap(), b"direct");
    vm.attach(Attachment::Bypass);
    assert_eq!(vm.windows(), given, "no change");
    // The answer to the order comes after the server has given it back.
    vm.attach(Attachment::Abort);
    assert_eq!(vm.windows(), [EVERYWHERE]);
    vm.attach(Attachment::Bypass);
    assert_eq!(vm.windows(), given);
    assert_eq!(vm.failure(), None);
}

#[test]
fn log_says_that_it_does_not_see_what_a_server_writes_that_has_ram() {
    let mut vm = Vm::start_with(Server::good(), true);
    let exact = |vm: &mut Vm, op| vm.process.dirty_log(op).unwrap().exact;
    assert_eq!(exact(&mut vm, DirtyLogOp::Enable { epoch: 1 }), Exactness::Exact);
    assert_eq!((exact(&mut vm, DirtyLogOp::Rearm), vm.dirty()), (Exactness::Exact, 0));
    vm.attach(Attachment::Bypass);
    // To be sent once, when it has stopped: not again in each round.
    for _ in 0..2 {
        assert_eq!((exact(&mut vm, DirtyLogOp::Rearm), vm.dirty()), (Exactness::Unseen, 0));
    }
    vm.process.pause().unwrap();
    assert_eq!(exact(&mut vm, DirtyLogOp::Rearm), Exactness::Unseen);
    vm.process.resume().unwrap();
    vm.attach(Attachment::Abort);
    assert_eq!(vm.dirty(), ALL_PAGES, "what it may have written is known as soon as it has no RAM");
    assert_eq!((exact(&mut vm, DirtyLogOp::Rearm), vm.dirty()), (Exactness::Exact, 0));
}

#[test]
fn a_server_that_does_not_take_ram_goes_on_and_one_that_keeps_it_has_failed() {
    let with_memory = |body: &[u8]| body.get(16..24) == Some(&RAM.to_le_bytes());
    let refuses: Bend = Box::new(move |command, body| {
        (command == Command::DMA_MAP && with_memory(body)).then_some(Err(Errno::NOTSUP))
    });
    let mut vm = Vm::start_with(Server::start(refuses), true);
    vm.attach(Attachment::Bypass);
    assert_eq!((vm.windows(), vm.failure()), (vec![EVERYWHERE], None));
    vm.dma_write(RAM, b"by message").unwrap();

    let keeps: Bend = Box::new(move |command, body| {
        let ram = body.get(8..16) == Some(&RAM.to_le_bytes());
        (command == Command::DMA_UNMAP && ram).then_some(Err(Errno::BUSY))
    });
    let mut vm = Vm::start_with(Server::start(keeps), true);
    vm.attach(Attachment::Bypass);
    assert_eq!(vm.failure(), None);
    vm.attach(Attachment::Abort);
    vm.assert_failed("DMA windows cannot be exchanged");
    vm.process.dirty_log(DirtyLogOp::Enable { epoch: 1 }).unwrap();
    let state = vm.process.dirty_log(DirtyLogOp::Rearm).unwrap();
    assert_eq!(state, DirtyLogState { epoch: 1, exact: Exactness::Unseen }, "it may write on");
}

#[test]
fn memory_stays_shown_while_the_pin_is_asserted() {
    let vm = Vm::start(Server::with_memory_and(SealFlags::SHRINK, Some(std::sync::Mutex::default())));
    let asked = |vm: &Vm| std::mem::take(&mut *vm.asked.lock().unwrap());
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(asked(&vm).last(), Some(&FunctionRequest::ShowWindows { shown: true }));
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG));
    assert_eq!(asked(&vm), [], "before the interrupt");
    vm.server.device.set_intx(false);
    vm.end_intx();
    // Answered behind all that the function did before.
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    assert_eq!(asked(&vm), []);
}
