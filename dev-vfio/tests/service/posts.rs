// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Posted writes.

use dev_vfio::backend::DeviceEnd;
use dev_vfio::keeper::Keeper;
use dev_vfio::vfio_user::client::Client;
use ipc::protocol::vfio::IdempotentRegisters;
use ipc::vfio_user::region::SmallWrite;

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

#[test]
fn doorbell_of_a_queue_that_an_admin_command_may_delete_is_not_posted_again() {
    // The tails of Submission Queues 0 and 1.
    const ADMIN: u64 = 0x1000;
    const IO: u64 = 0x1008;
    let mut server = Server::of(
        server::Device { registers: Mutex::new(vec![0; 0x1100]), ..server::Device::default() },
        Box::new(|_, _| None),
    );
    let (client, _) = Client::open(server.client.take().unwrap(), soon()).unwrap();
    let checkpoint = Checkpoint::create("checkpoint").unwrap();
    let keeper = Arc::new(Keeper::new(&checkpoint, IdempotentRegisters::nvme()).unwrap());
    let device = VfioUserDevice::new(client, None, false, Some(Arc::clone(&keeper)));
    device.post(0, IO, 4, 5).unwrap();
    assert_eq!(keeper.posts(), [SmallWrite::new(0, IO, 4, 5)]);
    server.device.commands.lock().unwrap().clear();
    // A queue made anew behind it has that identifier, and not that tail.
    device.post(0, ADMIN, 4, 1).unwrap();
    assert_eq!(keeper.posts(), []);
    let commands = std::mem::take(&mut *server.device.commands.lock().unwrap());
    assert_eq!(commands.last(), Some(&Command::REGION_WRITE), "{commands:?}");
    assert!(commands.contains(&Command::REGION_READ), "the device has seen the doorbell: {commands:?}");
    let register = |offset: u64| server.device.registers.lock().unwrap()[usize::try_from(offset).unwrap()];
    assert_eq!((register(IO), register(ADMIN)), (5, 1));
}
