// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty log of several CPUs that write some pages together while it is harvested, as a migration harvests it: what
//! was copied in all rounds together is what memory holds in the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::machine::{CODE, DATA, RAM, TABLES, World, parts};
use crate::cluster::Power;
use crate::ram::GuestRam;
use crate::{Exit, Vcpu};

/// Harvests, and as many pages that they bring: less would say nothing of what may be missed between two of them.
const ROUNDS: usize = 300;
/// For all of them, however late the CPUs' threads begin.
const SPAN: Duration = Duration::from_secs(60);

/// Stores and atomics to places that a generator of random numbers names, for ever.
const WRITER: [u32; 9] = [
    0x9b03_1442, // madd x2, x2, x3, x5
    0xd368_fc46, // lsr x6, x2, #40
    0x8a04_00c6, // and x6, x6, x4
    0xf826_6822, // str x2, [x1, x6]
    0xd354_fc46, // lsr x6, x2, #20
    0x8a04_00c6, // and x6, x6, x4
    0x8b06_0028, // add x8, x1, x6
    0xf822_0107, // ldadd x2, x7, [x8]
    0x17ff_fff8, // b, to the start
];

/// Offsets that are multiples of eight: a power of two of bytes.
const OFFSETS: u64 = 0x3_fff8;
/// How far behind the one before it a CPU's window begins: half of it is the next CPU's too, and the first and the last
/// CPU have pages that no other one marks.
const STRIDE: u64 = 0x2_0000;
const VCPU_COUNT_MAX: u64 = 4;
const LEN: u64 = (VCPU_COUNT_MAX - 1) * STRIDE + OFFSETS + 8;
const _: () = assert!(DATA + LEN <= TABLES);

/// A copy of the region that CPUs write.
struct Copy(Vec<u64>);

impl Copy {
    fn words() -> impl Iterator<Item = u64> {
        (DATA..DATA + LEN).step_by(8)
    }

    fn update(&mut self, ram: &GuestRam, marks: &[(u64, u64)]) {
        for (page, len) in marks {
            for gpa in (*page..page + len).step_by(8) {
                if let Some(word) = self.0.get_mut(((gpa.wrapping_sub(DATA)) / 8) as usize) {
                    *word = ram.read::<3>(gpa).unwrap();
                }
            }
        }
    }
}

fn take(world: &Arc<World>) -> Vec<(u64, u64)> {
    std::mem::take(&mut world.marks.lock().unwrap())
}

fn harvests_lose_nothing(vcpu_count: usize) {
    let (parts, world) = parts(vcpu_count);
    for (word, at) in WRITER.iter().zip((CODE..).step_by(4)) {
        parts.ram.write::<2>(at, u64::from(*word));
    }
    let mut copy = Copy(Copy::words().map(|gpa| parts.ram.read::<3>(gpa).unwrap()).collect());
    let threads: Vec<_> = (0..vcpu_count)
        .map(|index| {
            let mut vcpu = Vcpu::new(index, parts.clone());
            vcpu.cpu.powered = true;
            vcpu.cpu.shared().inbox().power = Power::On;
            vcpu.cpu.pc = CODE;
            let window = DATA + index as u64 * STRIDE;
            let multiplier = 6_364_136_223_846_793_005;
            let values = [(1, window), (2, RAM + index as u64), (3, multiplier), (4, OFFSETS), (5, 1)];
            values.into_iter().for_each(|(slot, value)| vcpu.cpu.w(slot, value));
            std::thread::spawn(move || vcpu.run())
        })
        .collect();
    let handles: Vec<_> = (0..vcpu_count).filter_map(|index| parts.cluster.handle(index)).collect();
    let (mut rounds, mut marked, begun) = (0, 0, Instant::now());
    while rounds < ROUNDS || marked < ROUNDS {
        let marks = take(&world);
        handles.iter().for_each(|handle| handle.flush_write_tlb());
        copy.update(&parts.ram, &marks);
        (rounds, marked) = (rounds + 1, marked + marks.len());
        assert!(begun.elapsed() < SPAN, "{rounds} rounds, in which the CPUs wrote {marked} pages");
    }
    handles.iter().for_each(|handle| handle.kick());
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Exit::Kicked));
    copy.update(&parts.ram, &take(&world));
    let stale = Copy::words().zip(&copy.0).filter(|(gpa, word)| parts.ram.read::<3>(*gpa) != Some(**word));
    assert_eq!(stale.count(), 0, "words that no harvest brought");
}

#[test]
fn harvests_while_two_cpus_write_lose_nothing() {
    harvests_lose_nothing(2);
}

#[test]
fn harvests_while_four_cpus_write_lose_nothing() {
    harvests_lose_nothing(4);
}
