// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! I/O commands of a host in this process: data of every shape, refusals, and queues that wrap and fill.
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
use host::{BASE, Driver, PAGE, Ram, blank, block_command, pattern, read, status, write};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn code(status: Status) -> u16 {
    status.bits() & 0x7ff
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
