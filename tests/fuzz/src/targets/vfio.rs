// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeds for the process of an assigned device: a guest and a server that use what there is, and some that do not.
//!
//! The forms are those that `drivers::vfio` describes: numbers are a length and then bytes, the highest first.

/// A number of the program.
fn number(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let len = u8::try_from(bytes.len() - skip).unwrap_or(0);
    [&[len][..], bytes.get(skip..).unwrap_or_default()].concat()
}

/// An answer to be bent: which, how, and with what.
fn bend(message: u8, kind: u8, parameter: u32) -> Vec<u8> {
    [&[message, kind][..], &parameter.to_le_bytes()].concat()
}

/// Lists of bends with the guest's program behind.
pub fn function() -> Vec<Vec<u8>> {
    // The operation's number in the low bits, the access's size (as a power of two) in the two highest.
    const WORD: u8 = 2 << 6;
    let configuration: Vec<u8> = (0..32)
        .flat_map(|at| {
            let ones = [&[WORD, 2][..], &number(0xffff_ffff), &number(at * 4)].concat();
            [&ones[..], &[WORD, 0], &number(at * 4)].concat()
        })
        .collect();
    let registers: Vec<u8> = (0..8)
        .flat_map(|at| {
            let write = [&[WORD | 2, 2 + at % 2][..], &number(7), &number(u64::from(at) * 4)].concat();
            [&write[..], &[WORD | 2, 0], &number(u64::from(at) * 4)].concat()
        })
        .collect();
    // Bypass, then a vector at the doorbell and one at RAM, each signalled; an MSI-X table full of ones.
    let vector =
        |entry: u8, address: u64| [&[6, entry][..], &number(address), &number(33), &[7, entry]].concat();
    let vectors =
        [&[8, 1][..], &vector(0, 0x0821_0040), &vector(1, 0x4000_0100), &vector(2, 1 << 40)].concat();
    let garbage: Vec<u8> =
        (0..64).flat_map(|at| [&[WORD | 4, 2][..], &number(0xffff_ffff), &[at, 0]].concat()).collect();
    let stage1 =
        [&[8, 2][..], &vector(3, 0x3000), &[9, 3], &number(0x30), &number(0), &number(0x12)].concat();
    let program = [configuration, registers, vectors, garbage, stage1, vec![10, 11, 1, 11, 0]].concat();

    const DESCRIPTORS: u8 = 14;
    let mut seeds = vec![[&[0][..], &program].concat()];
    // One bend of every kind while the device is opened (the configuration space is the thirteenth answer or so),
    // and one later.
    for kind in 0..DESCRIPTORS {
        for (message, parameter) in [(3, 0x0000_1004), (14, 0x00ff_3407), (40, 0x4000_0110)] {
            seeds.push([&[1][..], &bend(message, kind, parameter), &program].concat());
        }
    }
    // The first BAR's memory as each kind of descriptor.
    let region = |kind: u8| [&[1][..], &bend(2, DESCRIPTORS, u32::from(kind)), &program].concat();
    seeds.extend((0..crate::descriptors::KINDS).map(region));
    // Answers late by 12 ms, whole or in two pieces, where all together have 4, 24 or 64 ms: while the device is
    // opened, and later.
    const LATE: u8 = 15;
    for (message, span) in [(3, 3), (3, 23), (14, 23), (40, 63), (44, 63)] {
        for piece in [0, 5, 20] {
            let late = bend(message, LATE, u32::from_le_bytes([12, piece, span, 0]));
            seeds.push([&[1][..], &late, &program].concat());
        }
    }
    seeds
}

/// Programs of DMA and of changes to what translates it.
pub fn dma() -> Vec<Vec<u8>> {
    const READ: u8 = 0;
    const WRITE: u8 = 3;
    let transfer = |code: u8, kind: u8, iova: u64, count: u64| {
        [&[code][..], &number(iova), &[0, kind], &number(count)].concat()
    };
    let transfers = [
        transfer(6, READ, 0x0ffc, 64),
        transfer(6, WRITE | 0x10, 0x3ff0, 9000),
        transfer(9, WRITE | 0x10, 0x5000, 8),
        transfer(6, READ, 0x0f_fff8, 16),
        transfer(6, READ, 0, u64::MAX),
        transfer(6, WRITE, 0, 4),
        transfer(6, 6, 0, 4),
        [&transfer(14, READ, 0x2000, 100)[..], &[17]].concat(),
    ]
    .concat();
    // Each level's table as its own next one, data as a table, a leaf without AF, blocks, a context of another shape.
    let change = |level: u8, word: u64, to: u8, attributes: u64, kind: u8| {
        [&[0, level][..], &number(word), &[to], &number(attributes), &[kind]].concat()
    };
    let walk = |iova| [transfer(6, READ, iova, 8), transfer(10, 1, iova, 1)].concat();
    let flush = [4, 1, 0, 3, 0, 0];
    let tables: Vec<u8> = (1..4)
        .flat_map(|level| {
            [(0, 0), (1, 3), (2, 4), (4, 1 << 10), (5, 0), (7, u64::MAX)].into_iter().flat_map(
                move |(kind, attributes)| {
                    [change(level, 0, 3, attributes, kind), flush.to_vec(), walk(0x1000)].concat()
                },
            )
        })
        .collect();
    let contexts: Vec<u8> =
        (1..64).flat_map(|bit| [change(0, 0, 1, bit, 6), vec![3, 16, 5], walk(0x2000)].concat()).collect();
    let attachments: Vec<u8> =
        (0..8).flat_map(|kind| [vec![3, 16, kind, 5, 9], transfers.clone()].concat()).collect();
    let ends = [vec![15, 0, 0, 11], vec![15, 1, 1, 1], vec![15, 2, 1, 9, 0, 0, 0, 0], vec![15, 3, 0, 40]];
    let mut seeds = vec![transfers.clone(), tables, contexts, attachments];
    seeds.extend(ends.into_iter().map(|end| [&transfers[..], &[12, 13], &end].concat()));
    seeds
}
