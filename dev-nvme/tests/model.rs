// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The controller driven by a host in this process: registers, admin commands, queues, I/O, resets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::os::unix::fs::FileExt;

use dev_nvme::spec::command::{Command, admin, io};
use dev_nvme::spec::status::Status;
use host::local::{Local, image, started};
use host::{BASE, CC_ENABLE, Driver, PAGE, Ram, Wire, blank, block_command, pattern, read, status, write};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn code(status: Status) -> u16 {
    status.bits() & 0x7ff
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().trim_end_matches([' ', '\0']).to_owned()
}

#[test]
fn registers_out_of_reset_are_as_specified() {
    let driver = started(MIB);
    let wire = &driver.wire;
    let cap = wire.read(0, 8);
    // 1024 entries, contiguous, 10 s, the NVM command set, 4 KiB pages only.
    assert_eq!(cap, 1 << 37 | 20 << 24 | 1 << 16 | 1023);
    assert_eq!((wire.read(0, 4), wire.read(4, 4)), (cap & 0xffff_ffff, cap >> 32));
    assert_eq!(wire.read(8, 4), 0x10400);
    // Interrupt masks are not for MSI-X; what does not exist reads as 0 and takes no write.
    wire.write(0xc, 4, 0xffff_ffff);
    wire.write(0x38, 4, 0xffff_ffff);
    assert_eq!((wire.read(0xc, 4), wire.read(0x38, 4), wire.read(0xffc, 8)), (0, 0, 0));
    wire.write(0, 8, u64::MAX);
    assert_eq!(wire.read(0, 8), cap);
    assert_eq!(wire.read(0x14, 4), u64::from(CC_ENABLE));
}

#[test]
fn enabling_with_what_is_not_offered_is_fatal_and_a_reset_ends_it() {
    for cc in [CC_ENABLE | 1 << 7, CC_ENABLE | 1 << 4, CC_ENABLE | 1 << 11] {
        let driver = started(MIB);
        driver.disable();
        driver.wire.write(0x14, 4, cc.into());
        assert_eq!(driver.csts() & 3, 2, "{cc:#x}");
        driver.enable();
        assert!(driver.identify(1, 0).is_ok());
    }
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

#[test]
fn data_of_every_shape_arrives_where_it_should() {
    let driver = started(8 * MIB);
    let mut queue = driver.create(1, 32);
    let list = driver.pages(4);
    let source = driver.pages(300);
    let target = driver.pages(300);
    // Bytes, offset in the first page, list's offset in its page (which may make it a chain).
    for (bytes, offset, list_at) in [
        (512, 0, 0),
        (512, 3584, 0),
        (512, 4092, 0),
        (4096, 0, 0),
        (4096, 4, 0),
        (8192, 0, 0),
        (8192, 512, 0),
        (12288, 0, 8),
        (131_072, 100, 16),
        (131_072, 0, 4096 - 16),
        (131_072, 8, 4096 - 8),
        (1 << 20, 0, 0),
        (1 << 20, 2048, 4096 - 24),
    ] {
        let data = pattern(bytes + offset, bytes as usize);
        let prps = |at: u64| scattered(&driver, list, list_at, at, bytes, offset);
        let (prp1, prp2, pieces) = prps(source);
        put_pieces(&driver, &pieces, &data);
        let count = (bytes / 512) as u32;
        assert_eq!(
            status(&driver.run(&mut queue, write(16, count, prp1, prp2))),
            0,
            "{bytes} {offset} {list_at}"
        );
        let (prp1, prp2, pieces) = prps(target);
        put_pieces(&driver, &pieces, &vec![0xee; bytes as usize]);
        assert_eq!(status(&driver.run(&mut queue, read(16, count, prp1, prp2))), 0);
        assert!(get_pieces(&driver, &pieces) == data, "{bytes} {offset} {list_at}");
    }
}

/// PRPs for `bytes` bytes whose pages lie backwards in memory, so that none joins another.
fn scattered(
    driver: &Driver<Local>,
    list: u64,
    list_at: u64,
    at: u64,
    bytes: u64,
    offset: u64,
) -> (u64, u64, Vec<(u64, u64)>) {
    let pages = (offset + bytes).div_ceil(PAGE);
    let page = |number: u64| at + (pages - 1 - number) * PAGE;
    let mut pieces = Vec::new();
    let mut left = bytes;
    for number in 0..pages {
        let skip = if number == 0 { offset } else { 0 };
        let len = left.min(PAGE - skip);
        pieces.push((page(number) + skip, len));
        left -= len;
    }
    let entries: Vec<u64> = pieces.iter().skip(1).map(|(start, _)| *start).collect();
    let prp2 = match entries.as_slice() {
        [] => 0xdead_beef,
        [only] => *only,
        entries => {
            let (mut at, mut page_of_list) = (list + list_at, 0);
            for (number, entry) in entries.iter().enumerate() {
                let last_in_page = at % PAGE == PAGE - 8;
                if last_in_page && number + 1 < entries.len() {
                    page_of_list += 1;
                    let next = list + page_of_list * PAGE;
                    driver.ram.put(at, &next.to_le_bytes());
                    at = next;
                }
                driver.ram.put(at, &entry.to_le_bytes());
                at += 8;
            }
            list + list_at
        }
    };
    (pieces[0].0, prp2, pieces)
}

fn put_pieces(driver: &Driver<Local>, pieces: &[(u64, u64)], mut data: &[u8]) {
    for (at, len) in pieces {
        let (piece, rest) = data.split_at(*len as usize);
        driver.ram.put(*at, piece);
        data = rest;
    }
}

fn get_pieces(driver: &Driver<Local>, pieces: &[(u64, u64)]) -> Vec<u8> {
    pieces.iter().flat_map(|(at, len)| driver.ram.get(*at, *len as usize)).collect()
}

#[test]
fn commands_that_cannot_be_done_say_so_and_touch_nothing() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 32);
    let page = driver.pages(2);
    let outside = BASE + driver.ram.object.len();
    let last = MIB / 512;
    let with = |change: &dyn Fn(&mut Command)| {
        let mut command = read(0, 8, page, 0);
        change(&mut command);
        command
    };
    let cases: Vec<(Command, Status)> = vec![
        (read(last, 1, page, 0), Status::LBA_OUT_OF_RANGE),
        (read(last - 1, 2, page, 0), Status::LBA_OUT_OF_RANGE),
        (read(u64::MAX, 1, page, 0), Status::LBA_OUT_OF_RANGE),
        (write(u64::MAX - 1, 8, page, 0), Status::LBA_OUT_OF_RANGE),
        (read(0, 2049, page, 0), Status::INVALID_FIELD),
        (read(0, 65536, page, 0), Status::INVALID_FIELD),
        (with(&|c| c.nsid = 0.into()), Status::INVALID_NAMESPACE),
        (with(&|c| c.nsid = 2.into()), Status::INVALID_NAMESPACE),
        (with(&|c| c.nsid = u32::MAX.into()), Status::INVALID_NAMESPACE),
        (with(&|c| c.opcode = 0x7f), Status::INVALID_OPCODE),
        (with(&|c| c.flags = 1), Status::INVALID_FIELD),
        (with(&|c| c.flags = 0x40), Status::INVALID_FIELD),
        (read(0, 8, page + 2, 0), Status::PRP_OFFSET_INVALID),
        (read(0, 16, page, page + 8), Status::PRP_OFFSET_INVALID),
        (read(0, 24, page, page + 4), Status::PRP_OFFSET_INVALID),
        (read(0, 8, outside, 0), Status::DATA_TRANSFER_ERROR),
        (read(0, 8, !0xfff, 0), Status::DATA_TRANSFER_ERROR),
        (write(0, 24, page, outside), Status::DATA_TRANSFER_ERROR),
        (write(0, 8, 0, 0), Status::DATA_TRANSFER_ERROR),
        (block_command(io::WRITE_ZEROES, last - 1, 2, 0, 0), Status::LBA_OUT_OF_RANGE),
    ];
    for (command, expected) in cases {
        let completion = driver.run(&mut queue, command);
        assert_eq!(status(&completion), code(expected), "{command:?}");
    }
    let mut flush = blank(io::FLUSH);
    for nsid in [1, u32::MAX] {
        flush.nsid = nsid.into();
        assert_eq!(status(&driver.run(&mut queue, flush)), 0);
    }
    assert_eq!(driver.csts(), 1);
}

#[test]
fn compare_zero_and_discard_do_what_they_say() {
    let ram = Ram::new(8 << 20);
    let file = image(MIB);
    let driver = Driver::start(Local::new(file.try_clone().unwrap(), 512, &ram), ram);
    let mut queue = driver.create(1, 32);
    let page = driver.pages(1);
    let data = pattern(1, 4096);
    driver.ram.put(page, &data);
    let run = |queue: &mut host::Queue, command| status(&driver.run(queue, command));
    for slba in [0, 8, 16, 24] {
        assert_eq!(run(&mut queue, write(slba, 8, page, 0)), 0);
    }
    assert_eq!(run(&mut queue, block_command(io::COMPARE, 8, 8, page, 0)), 0);
    driver.ram.put(page + 4000, &[data[4000] ^ 1]);
    assert_eq!(run(&mut queue, block_command(io::COMPARE, 8, 8, page, 0)), code(Status::COMPARE_FAILURE));
    assert_eq!(run(&mut queue, block_command(io::WRITE_ZEROES, 9, 3, 0, 0)), 0);
    let mut release = block_command(io::WRITE_ZEROES, 24, 8, 0, 0);
    release.cdw12 |= zerocopy::little_endian::U32::new(1 << 25);
    assert_eq!(run(&mut queue, release), 0);
    // Two ranges, one of no blocks; then one that is beyond the end, and nothing is done at all.
    let ranges = |ranges: &[(u32, u64)]| {
        for (number, (count, slba)) in ranges.iter().enumerate() {
            let bytes =
                [0u32.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), slba.to_le_bytes().to_vec()]
                    .concat();
            driver.ram.put(page + number as u64 * 16, &bytes);
        }
        let mut command = block_command(io::DATASET_MANAGEMENT, ranges.len() as u64 - 1, 1, page, 0);
        command.cdw11 = 4.into();
        command.cdw12 = 0.into();
        command
    };
    let command = ranges(&[(2, 16), (0, u64::MAX)]);
    assert_eq!(run(&mut queue, command), 0);
    let command = ranges(&[(1, 0), (2, MIB / 512 - 1)]);
    assert_eq!(run(&mut queue, command), code(Status::LBA_OUT_OF_RANGE));
    let mut expected = [&data[..]; 4].concat();
    expected[9 * 512..12 * 512].fill(0);
    expected[16 * 512..18 * 512].fill(0);
    expected[24 * 512..].fill(0);
    let mut held = vec![0; expected.len()];
    file.read_exact_at(&mut held, 0).unwrap();
    assert!(held == expected);
}

#[test]
fn queue_wraps_and_a_full_completion_queue_holds_back_without_loss() {
    let driver = started(MIB);
    // 16 commands fit, 3 completions: the host takes them only later.
    let mut queue = small_completion_queue(&driver, 17, 4);
    let page = driver.pages(1);
    let mut submitted = Vec::new();
    let mut completed = Vec::new();
    for round in 0..40u64 {
        for _ in 0..8 {
            submitted.push(driver.enqueue(&mut queue.0, read(round % 8, 1, page, 0)));
        }
        driver.ring(&queue.0);
        while driver.wire.step() {}
        let mut taken = 0;
        while completed.len() < submitted.len() {
            while let Some(completion) = driver.poll(&mut queue.1, false) {
                assert_eq!(status(&completion), 0);
                completed.push(completion.cid.get());
                taken += 1;
            }
            assert!(taken > 0, "nothing comes any more");
            driver.tell_head(&queue.1);
            while driver.wire.step() {}
        }
    }
    completed.sort_unstable();
    assert_eq!(submitted, completed);
}

/// A pair with queues of different sizes: one view of it to submit, one to complete.
fn small_completion_queue(driver: &Driver<Local>, sq: u32, cq: u32) -> (host::Queue, host::Queue) {
    let completes = driver.create(1, cq);
    let mut delete = blank(admin::DELETE_IO_SQ);
    delete.cdw10 = 1.into();
    assert_eq!(status(&driver.admin(delete)), 0);
    let submits = driver.create(2, sq);
    let mut delete = blank(admin::DELETE_IO_SQ);
    delete.cdw10 = 2.into();
    assert_eq!(status(&driver.admin(delete)), 0);
    let mut command = blank(admin::CREATE_IO_SQ);
    command.prp1 = submits.address().into();
    command.cdw10 = ((sq - 1) << 16 | 2).into();
    command.cdw11 = (1 << 16 | 1).into();
    assert_eq!(status(&driver.admin(command)), 0);
    (submits, completes)
}

#[test]
fn bad_doorbells_do_no_harm() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 8);
    let page = driver.pages(1);
    for value in [8, 9, 0xffff, 0xffff_ffff] {
        driver.wire.write(0x1008, 4, value);
        driver.wire.write(0x100c, 4, value);
    }
    // A completion queue's head beyond what was written.
    driver.wire.write(0x100c, 4, 3);
    driver.wire.write(0x1000 + 17 * 8, 4, 1);
    driver.wire.write(0x1002, 4, 1);
    assert_eq!(status(&driver.run(&mut queue, read(0, 8, page, 0))), 0);
}

#[test]
fn queues_outside_memory_are_fatal_and_a_reset_ends_it() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 8);
    queue.lose(!0xfff);
    let mut command = blank(admin::DELETE_IO_SQ);
    command.cdw10 = 1.into();
    assert_eq!(status(&driver.admin(command)), 0);
    let mut command = blank(admin::CREATE_IO_SQ);
    command.prp1 = (!0xfff).into();
    command.cdw10 = (7 << 16 | 1).into();
    command.cdw11 = (1 << 16 | 1).into();
    assert_eq!(status(&driver.admin(command)), 0);
    driver.wire.write(0x1008, 4, 1);
    while driver.wire.step() {}
    assert_eq!(driver.csts() & 2, 2);
    driver.enable();
    assert_eq!(driver.csts() & 2, 0);
    assert!(driver.identify(1, 0).is_ok());
}

#[test]
fn reset_while_commands_wait_forgets_them() {
    let driver = started(MIB);
    let mut queue = driver.create(1, 64);
    let page = driver.pages(1);
    for _ in 0..40 {
        driver.enqueue(&mut queue, read(0, 8, page, 0));
    }
    driver.ring(&queue);
    assert!(driver.wire.step());
    driver.wire.pause_engine(true);
    driver.enable();
    driver.wire.pause_engine(false);
    while driver.wire.step() {}
    let mut again = driver.create(1, 64);
    assert_eq!(driver.poll(&mut again, true), None);
    assert_eq!(status(&driver.run(&mut again, read(0, 8, page, 0))), 0);
}

#[test]
fn shutdown_finishes_what_was_asked_and_says_so() {
    let driver = started(MIB);
    let _ = driver.wire.raised.take();
    driver.wire.write(0x14, 4, u64::from(CC_ENABLE | 1 << 14));
    assert_eq!(driver.csts() >> 2 & 3, 1);
    driver.until("shut down", |csts| csts >> 2 & 3 == 2);
    driver.enable();
    assert!(driver.identify(1, 0).is_ok());
    assert_eq!(driver.wire.raised.take()[0], 1);
}

#[test]
fn configuration_space_has_the_class_and_capabilities_of_nvme() {
    use dev_nvme::device::Region;
    let driver = started(MIB);
    let device = &driver.wire.device;
    let get = |at: u64| {
        let mut bytes = [0; 4];
        device.read(Region::Config, at, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let put = |at: u64, value: u32| device.write(Region::Config, at, &value.to_le_bytes()).unwrap();
    assert_eq!(get(8), 0x0108_0200);
    // BAR sizing.
    put(0x10, u32::MAX);
    put(0x14, u32::MAX);
    assert_eq!((get(0x10), get(0x14)), (!0x3fff | 4, u32::MAX));
    put(0x10, 0x1000_0000);
    put(0x14, 0x80);
    assert_eq!((get(0x10), get(0x14)), (0x1000_0004, 0x80));
    put(0x18, u32::MAX);
    assert_eq!(get(0x18), 0);
    // The chain ends, and holds PM, MSI-X and PCI Express.
    let mut at = get(0x34) & 0xff;
    let mut found = Vec::new();
    while at != 0 && found.len() < 10 {
        found.push(get(at.into()) & 0xff);
        at = get(at.into()) >> 8 & 0xff;
    }
    assert_eq!(found, [1, 0x11, 0x10]);
    assert_eq!((get(0x50) >> 16 & 0x7ff, get(0x54), get(0x58)), (16, 0x2000, 0x3000));
    put(0x50, u32::MAX);
    assert_eq!(get(0x50) >> 16, 0xc010);
    assert_eq!(get(0x100), 0);
    // A function level reset.
    put(0x68, 0x8000);
    assert_eq!((driver.csts(), get(0x68) & 0x8000, get(0x10)), (0, 0, 4));
    // The MSI-X table is kept, masked at first; the PBA is zeros.
    let wire = &driver.wire;
    assert_eq!(wire.read(0x200c, 4), 1);
    wire.write(0x2000, 8, 0xfee0_0000_1234_5678);
    wire.write(0x200c, 4, 0xffff_fffe);
    assert_eq!(
        (wire.read(0x2000, 8), wire.read(0x200c, 4), wire.read(0x3000, 8)),
        (0xfee0_0000_1234_5678, 0, 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Random commands on random blocks, in any order and depth, against a plain vector of bytes.
    #[test]
    fn io_agrees_with_a_vector(ops in proptest::collection::vec((0u8..5, 0u64..56, 1u32..9, 0u64..8), 1..60)) {
        let driver = started(64 * 512);
        let mut queue = driver.create(3, 5);
        let pages = driver.pages(2);
        let mut expected = vec![0u8; 64 * 512];
        for (number, (op, slba, count, offset)) in ops.into_iter().enumerate() {
            let (start, len) = (slba as usize * 512, count as usize * 512);
            let at = pages + offset * 4;
            match op {
                0 | 1 => {
                    let data = pattern(number as u64, len);
                    driver.ram.put(at, &data);
                    prop_assert_eq!(status(&driver.run(&mut queue, write(slba, count, at, pages + PAGE))), 0);
                    expected[start..start + len].copy_from_slice(&data);
                }
                2 | 3 => {
                    prop_assert_eq!(status(&driver.run(&mut queue, read(slba, count, at, pages + PAGE))), 0);
                    prop_assert!(driver.ram.get(at, len) == expected[start..start + len]);
                }
                _ => {
                    prop_assert_eq!(status(&driver.run(&mut queue, block_command(io::WRITE_ZEROES, slba, count, 0, 0))), 0);
                    expected[start..start + len].fill(0);
                }
            }
        }
    }
}
