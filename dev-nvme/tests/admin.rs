// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Admin commands of a host in this process: identify, features, queues, logs, asynchronous events.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use dev_nvme::spec::command::admin;
use dev_nvme::spec::status::Status;
use host::local::{Local, started};
use host::{BASE, Driver, PAGE, Wire, blank, read, status, write};

const MIB: u64 = 1 << 20;

fn code(status: Status) -> u16 {
    status.bits() & 0x7ff
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
}

#[test]
fn identify_tells_what_linux_reads() {
    let driver = started(3 * MIB);
    let page = driver.identify(1, 0).unwrap();
    assert_eq!(text(&page[4..24]), "TEST");
    assert_eq!(text(&page[24..64]), "Bulkhead NVMe Controller");
    assert_eq!(page[77], 8);
    assert_eq!(page[80..84], 0x10400u32.to_le_bytes());
    assert_eq!((page[111], page[512], page[513], page[525]), (1, 0x66, 0x44, 7));
    assert_eq!(page[516..520], [1, 0, 0, 0]);
    assert!(text(&page[768..1024]).starts_with("nqn.2014-08.org.nvmexpress:uuid:"));

    let page = driver.identify(0, 1).unwrap();
    let blocks = (3 * MIB / 512).to_le_bytes();
    assert_eq!((&page[0..8], &page[8..16], &page[16..24]), (&blocks[..], &blocks[..], &blocks[..]));
    // One format: no metadata, 512 bytes.
    assert_eq!((page[25], page[26], &page[128..132]), (0, 0, &[0, 0, 9, 0][..]));

    assert_eq!(driver.identify(2, 0).unwrap()[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.identify(2, 1).unwrap()[..8], [0; 8]);
    let names = driver.identify(3, 1).unwrap();
    assert_eq!((names[0], names[1], names[20], names[21], names[40]), (2, 16, 3, 16, 0));
    // UUID version 8, variant 2.
    assert_eq!((names[24 + 6] >> 4, names[24 + 8] >> 6), (8, 2));
    assert_eq!(driver.identify(0, 2).unwrap(), vec![0; 4096]);
}

#[test]
fn identify_of_what_cannot_be_is_refused() {
    let driver = started(MIB);
    let (namespace, field) = (code(Status::INVALID_NAMESPACE), code(Status::INVALID_FIELD));
    for (cns, nsid, expected) in [
        (0, 0, namespace),
        (0, u32::MAX, namespace),
        (3, 2, namespace),
        (2, u32::MAX, namespace),
        (2, u32::MAX - 1, namespace),
        (0x10, 1, field),
        (6, 0, field),
        (0x13, 0, field),
    ] {
        assert_eq!(driver.identify(cns, nsid), Err(expected), "{cns} {nsid}");
    }
}

fn feature(driver: &Driver<Local>, opcode: u8, id: u32, value: u32) -> Result<u32, u16> {
    let mut command = blank(opcode);
    command.cdw10 = id.into();
    command.cdw11 = value.into();
    let completion = driver.admin(command);
    if status(&completion) == 0 { Ok(completion.dw0.get()) } else { Err(status(&completion)) }
}

#[test]
fn features_keep_what_is_set_and_refuse_what_is_not_there() {
    let driver = started(MIB);
    let set = |id, value| feature(&driver, admin::SET_FEATURES, id, value);
    let get = |id| feature(&driver, admin::GET_FEATURES, id, 0);
    assert_eq!(set(7, 63 << 16 | 63), Ok(15 << 16 | 15));
    assert_eq!(get(7), Ok(15 << 16 | 15));
    assert_eq!(set(7, 0xffff), Err(code(Status::INVALID_FIELD)));
    assert_eq!(get(6), Ok(1));
    assert_eq!(set(6, 0), Ok(0));
    assert_eq!(get(6), Ok(0));
    for (id, value) in [(1, 7), (5, 3), (8, 0x1234), (9, 0x1_0003), (0xa, 1), (0xb, 0x1ff)] {
        assert_eq!(set(id, value), Ok(0));
        assert_eq!(feature(&driver, admin::GET_FEATURES, id, value & 0xffff), Ok(value), "{id}");
    }
    assert_eq!(set(2, 1), Err(code(Status::INVALID_FIELD)));
    assert_eq!(set(9, 17), Err(code(Status::INVALID_FIELD)));
    assert_eq!(set(0x80, 0), Err(code(Status::INVALID_FIELD)));
    assert_eq!(set(6 | 1 << 31, 1), Err(code(Status::FEATURE_NOT_SAVEABLE)));
    driver.create(1, 8);
    assert_eq!(set(7, 1), Err(code(Status::COMMAND_SEQUENCE_ERROR)));
    driver.enable();
    assert_eq!((get(6), get(0xb)), (Ok(1), Ok(0)));
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let driver = started(MIB);
    let cq = |id: u32, size: u32, prp: u64, cdw11: u32| {
        let mut command = blank(admin::CREATE_IO_CQ);
        command.prp1 = prp.into();
        command.cdw10 = ((size - 1) << 16 | id).into();
        command.cdw11 = cdw11.into();
        status(&driver.admin(command))
    };
    assert_eq!(cq(0, 8, BASE, 3), code(Status::INVALID_QUEUE_ID));
    assert_eq!(cq(17, 8, BASE, 3), code(Status::INVALID_QUEUE_ID));
    assert_eq!(cq(1, 1, BASE, 3), code(Status::INVALID_QUEUE_SIZE));
    assert_eq!(cq(1, 1025, BASE, 3), code(Status::INVALID_QUEUE_SIZE));
    assert_eq!(cq(1, 8, BASE + 8, 3), code(Status::PRP_OFFSET_INVALID));
    assert_eq!(cq(1, 8, BASE, 2), code(Status::INVALID_FIELD));
    assert_eq!(cq(1, 8, BASE, 17 << 16 | 3), code(Status::INVALID_VECTOR));
    driver.create(1, 1024);
    assert_eq!(cq(1, 8, BASE, 3), code(Status::INVALID_QUEUE_ID));
    let sq = |id: u32, cqid: u32| {
        let mut command = blank(admin::CREATE_IO_SQ);
        command.prp1 = BASE.into();
        command.cdw10 = (7 << 16 | id).into();
        command.cdw11 = (cqid << 16 | 1).into();
        status(&driver.admin(command))
    };
    assert_eq!(sq(2, 0), code(Status::COMPLETION_QUEUE_INVALID));
    assert_eq!(sq(2, 2), code(Status::COMPLETION_QUEUE_INVALID));
    assert_eq!(sq(1, 1), code(Status::INVALID_QUEUE_ID));
    let delete = |opcode, id: u32| {
        let mut command = blank(opcode);
        command.cdw10 = id.into();
        status(&driver.admin(command))
    };
    assert_eq!(delete(admin::DELETE_IO_CQ, 1), code(Status::INVALID_QUEUE_DELETION));
    assert_eq!(delete(admin::DELETE_IO_SQ, 0), code(Status::INVALID_QUEUE_ID));
    assert_eq!(delete(admin::DELETE_IO_SQ, 1), 0);
    assert_eq!(delete(admin::DELETE_IO_SQ, 1), code(Status::INVALID_QUEUE_ID));
    assert_eq!(delete(admin::DELETE_IO_CQ, 1), 0);
    assert_eq!(delete(admin::DELETE_IO_CQ, 1), code(Status::INVALID_QUEUE_ID));
    assert_eq!(status(&driver.admin(blank(0x80))), code(Status::INVALID_OPCODE));
}

fn log_page(driver: &Driver<Local>, log: u32, len: usize, offset: u32) -> Result<Vec<u8>, u16> {
    let pages = driver.pages(2);
    let mut command = blank(admin::GET_LOG_PAGE);
    command.nsid = u32::MAX.into();
    command.prp1 = pages.into();
    command.prp2 = (pages + PAGE).into();
    command.cdw10 = ((len as u32 / 4 - 1) << 16 | log).into();
    command.cdw12 = offset.into();
    match status(&driver.admin(command)) {
        0 => Ok(driver.ram.get(pages, len)),
        status => Err(status),
    }
}

#[test]
fn logs_count_and_tell() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 16);
    let page = driver.pages(1);
    assert_eq!(status(&driver.run(&mut queue, write(0, 8, page, 0))), 0);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
    let failed = driver.run(&mut queue, read(MIB, 1, page, 0));
    assert_eq!(status(&failed), code(Status::LBA_OUT_OF_RANGE));
    let smart = log_page(&driver, 2, 512, 0).unwrap();
    assert_eq!((smart[0], u16::from_le_bytes([smart[1], smart[2]]), smart[3]), (0, 310, 100));
    // Data units, commands.
    assert_eq!((smart[32], smart[48], smart[64], smart[80], smart[112]), (1, 1, 1, 1, 1));
    assert_eq!(smart[176], 1);
    let errors = log_page(&driver, 1, 64, 0).unwrap();
    assert_eq!((errors[0], errors[8], &errors[10..12]), (1, 1, &failed.cid.get().to_le_bytes()[..]));
    assert_eq!(errors[12..14], (failed.status.get() & !1).to_le_bytes());
    assert_eq!(errors[16..24], MIB.to_le_bytes());
    assert_eq!(log_page(&driver, 3, 512, 0).unwrap()[0], 1);
    assert_eq!(log_page(&driver, 4, 4096, 0).unwrap(), vec![0; 4096]);
    let effects = log_page(&driver, 5, 4096, 0).unwrap();
    assert_eq!((effects[6 * 4], effects[1024 + 4], effects[1024 + 3 * 4]), (1, 3, 0));
    // From the middle, and across the end.
    assert_eq!(log_page(&driver, 5, 8, 1024 + 4).unwrap(), effects[1028..1036]);
    assert_eq!(log_page(&driver, 2, 4096, 508).unwrap()[4..], [0; 4092]);
    assert_eq!(log_page(&driver, 2, 4, 516), Err(code(Status::INVALID_FIELD)));
    assert_eq!(log_page(&driver, 2, 4, 2), Err(code(Status::INVALID_FIELD)));
    assert_eq!(log_page(&driver, 0x7f, 4, 0), Err(code(Status::INVALID_LOG_PAGE)));
}

#[test]
fn asynchronous_events_are_told_once_until_their_log_is_read() {
    let driver = started(MIB);
    let ask = || driver.submit(&mut driver.admin.borrow_mut(), blank(admin::ASYNC_EVENT_REQUEST));
    let told = || {
        while driver.wire.step() {}
        driver.poll(&mut driver.admin.borrow_mut(), true)
    };
    let first = ask();
    assert_eq!(told(), None);
    // A doorbell of a queue that does not exist, twice.
    driver.wire.write(0x1000 + 5 * 8, 4, 1);
    driver.wire.write(0x1000 + 5 * 8, 4, 1);
    let event = told().unwrap();
    assert_eq!((event.cid.get(), event.dw0.get()), (first, 0x0001_0000));
    let second = ask();
    // The same type: masked until the log was read, which this request then hears.
    driver.wire.write(0x1000, 4, 99);
    assert_eq!(told(), None);
    let mut command = blank(admin::GET_LOG_PAGE);
    command.prp1 = driver.pages(1).into();
    command.cdw10 = (15 << 16 | 1).into();
    let log = driver.submit(&mut driver.admin.borrow_mut(), command);
    let mut ended: Vec<_> =
        [told().unwrap(), told().unwrap()].map(|c| (c.cid.get(), status(&c), c.dw0.get())).into();
    ended.sort_unstable();
    assert_eq!(ended, [(second, 0, 0x0001_0000), (log, 0, 0)]);
    // Aborting one that waits.
    let third = ask();
    let mut abort = blank(admin::ABORT);
    abort.cdw10 = (u32::from(third) << 16).into();
    let abort = driver.submit(&mut driver.admin.borrow_mut(), abort);
    let ended: Vec<_> =
        [told().unwrap(), told().unwrap()].map(|c| (c.cid.get(), status(&c), c.dw0.get())).into();
    assert!(
        ended.contains(&(third, code(Status::ABORT_REQUESTED), 0)) && ended.contains(&(abort, 0, 0)),
        "{ended:?}"
    );
    // One more than may wait.
    for _ in 0..4 {
        ask();
    }
    let fifth = ask();
    let refused = told().unwrap();
    assert_eq!((refused.cid.get(), status(&refused)), (fifth, code(Status::ASYNC_LIMIT)));
}
