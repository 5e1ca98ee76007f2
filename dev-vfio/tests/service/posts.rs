// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Posted writes.

use super::*;

/// A server that answers the read of register 0 only after a while, so that writes queue behind it.
fn slow_to_read(more: impl Fn(Command) -> Option<Result<Vec<u8>, Errno>> + Send + 'static) -> Bend {
    Box::new(move |command, body| {
        let register_0 = body.get(..12) == Some(&[0; 12]);
        if command == Command::REGION_READ && register_0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        more(command)
    })
}

/// Posts 40 writes while a read is under way, and returns how many came in each batch.
fn posts_behind_a_read(vm: &Vm) -> Vec<usize> {
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    let ring = &vm.ring;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| ring.read(AREA32_REGION, 0, 4, &Interrupt::new(), soon()).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        for n in 0..40u64 {
            ring.post(AREA32_REGION, 4 + n % 8, 1, n, &Interrupt::new(), soon()).unwrap();
        }
        reader.join().unwrap();
    });
    for register in 0..8 {
        assert_eq!(vm.read(AREA32_REGION, 4 + register, 1), 32 + register, "the last write of each counts");
    }
    std::mem::take(&mut *vm.server.device.batches.lock().unwrap())
}

#[test]
fn posted_writes_that_queue_go_in_batches_and_in_order() {
    let vm = Vm::start(Server::start(slow_to_read(|_| None)));
    let batches = posts_behind_a_read(&vm);
    assert!(batches.iter().all(|count| (2..=32).contains(count)), "{batches:?}");
    assert!(batches.iter().sum::<usize>() >= 32, "{batches:?}");
    assert_eq!(vm.failure(), None);

    let old = |command| {
        (command == Command::VERSION)
            .then(|| Ok(b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":1}}\0".to_vec()))
    };
    let vm = Vm::start(Server::start(slow_to_read(old)));
    assert_eq!(posts_behind_a_read(&vm), [0; 0], "one by one, where batches were not agreed on");
}

#[test]
fn pin_is_unmasked_behind_the_writes_that_were_posted_before_the_interrupt_ended() {
    let vm = Vm::start(Server::with_intx_and(slow_to_read(|_| None)));
    vm.write(CONFIG_REGION, 4, 2, 0b110);
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG));
    let ring = &vm.ring;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| ring.read(AREA32_REGION, 0, 4, &Interrupt::new(), soon()).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        let done = u64::try_from(server::INTX_DONE).unwrap();
        ring.post(AREA32_REGION, done, 1, 2, &Interrupt::new(), soon()).unwrap();
        vm.end_intx();
        reader.join().unwrap();
    });
    assert!(!vm.intx_within(A_MOMENT * 3), "the device was told before it was asked");
    vm.await_interrupt_status(0);
    vm.server.device.set_intx(true);
    assert!(vm.intx_within(LONG), "and it is unmasked");
}
