// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary inputs are survived; and what the targets look for, they find.

use std::os::unix::fs::FileExt;

use ipc::addr::Iova;
use ipc::protocol::vfio::{AREA32_REGION, CONFIG_REGION};
use ipc::shm::ring::{Access, Op};
use proptest::prelude::*;

use super::guest::{Guest, STREAM};
use super::server::{Bend, Server};
use dev_vfio::iommu::HostIommu;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_guest_and_any_server_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        super::function(&input);
    }

    #[test]
    fn any_dma_through_any_tables_is_survived(program in prop::collection::vec(any::<u8>(), 0..300)) {
        super::dma(&program);
    }
}

#[test]
fn a_write_that_is_logged_is_no_finding() {
    let mut guest = Guest::new();
    let mut iommu = guest.iommu();
    iommu.attach(STREAM, Guest::good_stage1()).unwrap();
    iommu.write(Iova(0x3ff0), &[1; 64]).unwrap();
    guest.harvest();
    iommu.write(Iova(0x5000), &[1; 64]).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "written and not logged")]
fn a_write_that_is_not_logged_is_found() {
    let mut guest = Guest::new();
    let mut iommu = guest.iommu();
    iommu.attach(STREAM, Guest::good_stage1()).unwrap();
    guest.log_off();
    iommu.write(Iova(0x3000), &[1]).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "what is no RAM was written")]
fn a_write_outside_ram_is_found() {
    let mut guest = Guest::new();
    guest.object().file().write_all_at(&[0], 25 * 4096).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "what is no RAM was read")]
fn a_read_outside_ram_is_found() {
    let guest = Guest::new();
    let mut bytes = [0; 100];
    guest.object().file().read_exact_at(&mut bytes, 25 * 4096 - 50).unwrap();
    Guest::assert_is_ram(&bytes);
}

#[test]
fn a_server_that_is_late_loses_its_device_and_one_that_is_not_keeps_it() {
    // Only the number of the answer that is late: after the opening, or never.
    for (message, is_late) in [(200, false), (0, true)] {
        let guest = Guest::new();
        // Late by 15 ms, where all answers together have more than the opening takes, even on a busy machine.
        let late = [1, message, 15, 15, 0, 63, 0];
        let (bends, _) = Bend::list(&late);
        let conversation = Bend::conversation(&bends).map(|span| if is_late { span / 16 } else { span * 32 });
        let (socket, server) = Server::start(bends, false);
        let function = super::open(socket, &guest, conversation);
        assert_eq!(function.is_none(), is_late, "late in the opening");
        if let Some(function) = function {
            let read = || {
                let write = Access { region: CONFIG_REGION, offset: 4, size: 2, op: Op::Write(0b110) };
                function.access(write);
                function.access(Access { region: AREA32_REGION, offset: 8, size: 4, op: Op::Read })
            };
            assert_eq!(read(), 0x5a5a_5a5a, "in time");
            std::thread::sleep(conversation.unwrap());
            assert_eq!(read(), u64::from(u32::MAX), "all answers together are late");
            assert!(function.failure().unwrap().contains("deadline passed"), "{:?}", function.failure());
        }
        server.end();
    }
}
