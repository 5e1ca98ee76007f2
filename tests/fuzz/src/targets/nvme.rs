// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs for the NVMe controller and its server: what their drivers take, with one byte in front of it.
//!
//! That byte's lowest bit says whether the controller is enabled, with its admin queues in place, before it begins.

use crate::{descriptors, drivers::nvme};

/// Operations of the program.
const WRITE_REGISTER: u8 = 0;
const READ_REGISTER: u8 = 1;
const WRITE_CONFIG: u8 = 2;
const COMMAND: u8 = 4;
const MIGRATE: u8 = 7;

pub fn run(input: &[u8]) {
    let Some((mode, program)) = input.split_first() else { return };
    nvme::run(program, mode & 1 == 1);
}

pub fn client(input: &[u8]) {
    let Some((mode, program)) = input.split_first() else { return };
    nvme::client(program, mode & 1 == 1);
}

/// Programs of a client: each kind of descriptor as memory and as an eventfd, then commands that use both.
pub fn client_seeds() -> Vec<Vec<u8>> {
    const MAP: u8 = 0;
    const IRQS: u8 = 1;
    const LOG: u8 = 4;
    const MEDDLE: u8 = 5;
    const COMMAND: u8 = 6;
    // Identify, with its data where the window is, and a list of pages there.
    let identify = |slot: u8, page: u32| {
        let mut bytes = vec![COMMAND, slot, 6, slot];
        (2..16).for_each(|number| {
            bytes.extend(match number {
                6 => word(page << 12),
                10 => word(1),
                _ => word(0),
            });
        });
        bytes.push(0);
        bytes
    };
    (0..descriptors::KINDS)
        .map(|kind| {
            let window = [MAP, 8, 255, 0, 1, kind, 3, IRQS, 0, 1, kind, LOG, 0];
            let meddled = [MEDDLE, 0, 1, 0, MEDDLE, 1, 1, 0, MEDDLE, 2, 2, LOG, 1];
            let used = [identify(0, 512), identify(1, 513)].concat();
            [&[1][..], &window, &used, &meddled, &identify(2, 514), &identify(3, 8)].concat()
        })
        .collect()
}

/// A number as the program takes it: how many bytes, then the bytes, the highest first.
fn word(value: u32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    let len = u8::try_from(bytes.len() - skip).unwrap_or(0);
    [&[len][..], bytes.get(skip..).unwrap_or_default()].concat()
}

/// Puts a command into a slot of the queue at `page`, and rings the doorbell: dwords 6 (PRP1) and 10 to 12 are given.
fn command(queue: u8, page: u8, slot: u8, opcode: u8, prp1: u32, dwords: [u32; 3]) -> Vec<u8> {
    let mut bytes = vec![COMMAND, slot, opcode, page, slot];
    let [dw10, dw11, dw12] = dwords;
    for number in 2..16 {
        bytes.extend(match number {
            6 => word(prp1),
            10 => word(dw10),
            11 => word(dw11),
            12 => word(dw12),
            _ => word(0),
        });
    }
    bytes.push(queue);
    bytes
}

pub fn seeds() -> Vec<Vec<u8>> {
    const IDENTIFY: u8 = 6;
    // Queues at 0x4000 (completions) and 0x2000 (submissions), with identifier 1 and 64 entries.
    let queues = [
        command(0, 0, 0, IDENTIFY, 0x8000, [1, 0, 0]),
        command(0, 0, 1, 5, 0x4000, [0x003f_0001, 3, 0]),
        command(0, 0, 2, 1, 0x2000, [0x003f_0001, 0x0001_0001, 0]),
    ]
    .concat();
    // Write, read, compare, write zeroes, flush, data set management.
    let io: Vec<u8> = [(1, 8), (2, 8), (5, 8), (8, 7), (0, 0), (9, 0)]
        .into_iter()
        .zip(0..)
        .flat_map(|((opcode, count), slot)| command(1, 2, slot, opcode, 0x9000, [4, 0, count]))
        .collect();
    let registers: Vec<u8> = [0x14u32, 0x24, 0x28, 0x30, 0x1000, 0x1008, 0x2000, 0x3000]
        .into_iter()
        .flat_map(|offset| {
            [&[WRITE_REGISTER][..], &word(offset), &word(0x46_0001), &[1, READ_REGISTER], &word(offset)]
                .concat()
        })
        .collect();
    let config: Vec<u8> =
        (0..64).flat_map(|at| [&[WRITE_CONFIG][..], &word(at * 4), &[0xff]].concat()).collect();
    let migrate: Vec<u8> =
        (0..8).flat_map(|state| [&[MIGRATE, state][..], &word(9), &[1]].concat()).collect();
    let all = [&[1][..], &queues, &io, &migrate, &io].concat();
    vec![
        all,
        [&[1][..], &queues, &io].concat(),
        [&[0][..], &registers, &config].concat(),
        [&[1][..], &registers, &queues].concat(),
    ]
}
