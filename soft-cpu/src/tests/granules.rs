// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random tables of every granule, size and half: the walk against a slow one written separately, and loads through the
//! TLB against both, with invalidations between them.

use proptest::prelude::*;

use super::machine::{DATA, Guest, RAM, RAM_LEN, TABLES, VECTORS};
use crate::mmu::{Access, Fault};

const LDR: u32 = 0xf940_0020; // ldr x0, [x1]

/// The lowest input address bit of each level, from level 0 on (Arm ARM D8.2, the figures of each granule). The lowest
/// level is a page; a block may be mapped at the levels of the last column.
const SHAPES: [(u64, u64, [u32; 4], [bool; 4]); 3] = [
    (0, 2, [39, 30, 21, 12], [false, true, true, false]),
    (2, 1, [47, 36, 25, 14], [false, false, true, false]),
    (1, 3, [55, 42, 29, 16], [false, false, true, false]),
];

/// Where tables are made: far enough apart for the largest. What they map is anywhere in RAM but for the code and the
/// vectors: a descriptor that makes a table of these would have another one change with every instruction.
const POOL: u64 = TABLES + 0x1_0000;
const TABLE_SPACING: u64 = 0x1_0000;
const TABLE_COUNT: u64 = 14;

/// What a case chooses: granule, address bits, half, and addresses with the attributes of their descriptors.
#[derive(Debug, Clone)]
struct Case {
    shape: usize,
    bits: u32,
    high: bool,
    leaves: Vec<(u64, u64, u32)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let leaf = (any::<u64>(), any::<u64>(), 0u32..4);
    (0usize..3, 25u32..=48, any::<bool>(), proptest::collection::vec(leaf, 1..8)).prop_map(
        |(shape, bits, high, mut leaves)| {
            let first = leaves[0];
            // Every other one lies near the first, so that they share tables down to some level.
            for (va, random, level) in leaves.iter_mut().skip(1).step_by(2) {
                let apart = SHAPES[shape].2[(*level).min(2) as usize + 1] + (*random % 4) as u32;
                *va = first.0 ^ (*va % (1 << apart));
            }
            Case { shape, bits, high, leaves }
        },
    )
}

/// One table walk as the manual tells it, by the figures above.
struct Slow<'a> {
    guest: &'a Guest,
    case: &'a Case,
    root: u64,
}

impl Slow<'_> {
    fn lowest(&self) -> [u32; 4] {
        SHAPES[self.case.shape].2
    }

    /// The level that resolves the topmost bits: the first whose bits are within the input address.
    fn first_level(&self) -> usize {
        (0..4).find(|level| self.lowest()[*level] < self.case.bits).unwrap()
    }

    fn index(&self, va: u64, level: usize) -> u64 {
        let top = if level == self.first_level() { self.case.bits } else { self.lowest()[level - 1] };
        (va % (1 << top)) / (1 << self.lowest()[level])
    }

    fn walk(&self, va: u64, access: Access, el: u8) -> Result<u64, Fault> {
        let sign = if self.case.high { u64::MAX } else { 0 };
        if va >> self.case.bits != sign >> self.case.bits {
            return Err(Fault::Translation(0));
        }
        let mut table = self.root;
        let mut taken = [false; 4]; // by the tables: writes, EL0, execution at EL0, execution at EL1
        for level in self.first_level()..4 {
            let entry = table + 8 * self.index(va, level);
            if !(RAM..RAM + RAM_LEN).contains(&entry) {
                return Err(Fault::ExternalOnWalk(level as u8));
            }
            let descriptor = self.guest.read(entry);
            let bit = |n: u32| descriptor / (1 << n) % 2 == 1;
            let span = 1u64 << self.lowest()[level];
            let address = descriptor % (1 << 48);
            let is_leaf = if level == 3 { bit(1) } else { SHAPES[self.case.shape].3[level] && !bit(1) };
            if !bit(0) || (!is_leaf && (level == 3 || !bit(1))) {
                return Err(Fault::Translation(level as u8));
            }
            if !is_leaf {
                let next = address - address % (1 << self.lowest()[3]);
                if next >= 1 << 40 {
                    return Err(Fault::AddressSize(level as u8));
                }
                for (taken, n) in taken.iter_mut().zip([62, 61, 60, 59]) {
                    *taken |= bit(n);
                }
                table = next;
                continue;
            }
            let output = address - address % span;
            if output >= 1 << 40 {
                return Err(Fault::AddressSize(level as u8));
            }
            if !bit(10) {
                return Err(Fault::AccessFlag(level as u8));
            }
            let writable = !bit(7) && !taken[0];
            let el0 = bit(6) && !taken[1];
            let may = match (access, el) {
                (Access::Execute, 0) => !bit(54) && !taken[2],
                (Access::Execute, _) => !(bit(53) || taken[3] || writable && el0),
                (Access::Write, 0) => writable && el0,
                (Access::Write, _) => writable,
                (_, 0) => el0,
                _ => true,
            };
            return if may { Ok(output + va % span) } else { Err(Fault::Permission(level as u8)) };
        }
        Err(Fault::Translation(3))
    }
}

/// A guest with these tables in force for the chosen half. The other half keeps the code, in 4 KiB pages.
struct World {
    guest: Guest,
    root: u64,
    made: u64,
}

impl World {
    fn new(case: &Case) -> World {
        let mut guest = Guest::translated();
        let (tg0, tg1, ..) = SHAPES[case.shape];
        let size = u64::from(64 - case.bits);
        // 40-bit output. The code runs under the low half, so a case about that half runs no code.
        let (low, high) = if case.high { ((25, 0), (size, tg1)) } else { ((size, tg0), (25, 2)) };
        let sys = &mut guest.vcpu.cpu.sys;
        sys.tcr = low.0 | low.1 << 14 | high.0 << 16 | high.1 << 30 | 2 << 32 | 1 << 36;
        if case.high {
            sys.ttbr1 = POOL;
        } else {
            sys.ttbr0 = POOL;
        }
        guest.vcpu.cpu.update_regime();
        World { guest, root: POOL, made: 1 }
    }

    fn slow<'a>(&'a self, case: &'a Case) -> Slow<'a> {
        Slow { guest: &self.guest, case, root: self.root }
    }

    /// Puts a descriptor for `va` at `level` or below, making tables on the way until there are no more. True if that
    /// made a block of a table or a table of a block: then it was about more addresses than those of one leaf.
    fn put(&mut self, case: &Case, va: u64, random: u64, level: u32) -> bool {
        let (first, lowest) = (self.slow(case).first_level(), SHAPES[case.shape].2);
        let level = (level as usize).max(first);
        let (mut table, mut other_kind) = (self.root, false);
        for at in first..4 {
            let entry = table + 8 * self.slow(case).index(va, at);
            if at == level || self.made == TABLE_COUNT {
                // Mostly into RAM and mostly valid; now and then anything.
                let address =
                    if random & 0x1f00 == 0 { random } else { DATA + random % (RAM + RAM_LEN - DATA) };
                let kind = if at == 3 { 3 } else { 1 };
                let wild = random >> 13 & 0x7 == 0;
                let bits = if wild { random & 0xfff } else { kind | 1 << 10 | random & 0x2c0 };
                let high_bits = random & (0b11 << 53);
                let place = address & 0x0000_ffff_ffff_f000 & !((1 << lowest[3]) - 1);
                let replaced = at < 3 && self.guest.read(entry) & 3 == 3;
                self.guest.write(entry, place | bits | high_bits);
                return other_kind || replaced;
            }
            let old = self.guest.read(entry);
            if old & 3 == 3 && at < 3 {
                table = old & 0x0000_ffff_ffff_0000;
                if (POOL..POOL + TABLE_SPACING * TABLE_COUNT).contains(&table) {
                    continue;
                }
                return other_kind;
            }
            other_kind |= old & 1 == 1;
            let next = POOL + TABLE_SPACING * self.made;
            self.made += 1;
            let limits = if random >> 40 & 3 == 0 { random & (0xf << 59) } else { 0 };
            self.guest.write(entry, next | 3 | limits);
            table = next;
        }
        other_kind
    }
}

fn canonical(case: &Case, random: u64) -> u64 {
    let low = random & ((1 << case.bits) - 1);
    if case.high { low | !((1 << case.bits) - 1) } else { low }
}

/// Addresses at and around what was mapped, and some that were not.
fn questions(case: &Case) -> Vec<u64> {
    let near = |va: u64| [va, va ^ 0x1000, va ^ 0x4000, va ^ 0x1_0000, va ^ 0x20_0000, va ^ 0x200_0000];
    let mut all: Vec<u64> = case.leaves.iter().flat_map(|leaf| near(canonical(case, leaf.0))).collect();
    all.extend(case.leaves.iter().map(|leaf| leaf.0));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn walks_agree_with_a_slow_walker(case in cases()) {
        let mut world = World::new(&case);
        for (va, random, level) in &case.leaves {
            world.put(&case, canonical(&case, *va), *random, *level);
        }
        for va in questions(&case) {
            for access in [Access::Read, Access::Write, Access::Execute] {
                for el in [0, 1] {
                    // Bit 55 chooses the half.
                    if (va >> 55 & 1 == 1) != case.high {
                        continue;
                    }
                    let fast = world.guest.vcpu.cpu.translate(va, access, el).map(|found| found.pa);
                    let slow = world.slow(&case).walk(va, access, el);
                    prop_assert_eq!(fast, slow, "{:#x} {:?} at EL{}", va, access, el);
                }
            }
        }
    }

    #[test]
    fn loads_through_the_tlb_follow_every_invalidation(case in cases()) {
        let case = Case { high: true, ..case };
        let mut world = World::new(&case);
        for round in 0..3u64 {
            for (va, random, level) in &case.leaves {
                let va = canonical(&case, *va) & !7;
                // The leaf that decides about `va` changes; then whatever it mapped is forgotten, by any address in it.
                let change = random.rotate_left(7 * round as u32);
                let all = world.put(&case, va, change, *level);
                world.guest.set_x(1, va >> 12 & 0xfff_ffff_ffff);
                // tlbi vmalle1, or tlbi vae1is, x1
                world.guest.step(if all { 0xd508_871f } else { 0xd508_8321 });
                for other in [va, va ^ 0x1000, va ^ 0x4000, va ^ 0x1_0000, va ^ 0x20_0000, va ^ 0x1000_0000] {
                    let other = canonical(&case, other);
                    let slow = world.slow(&case).walk(other, Access::Read, 1);
                    world.guest.set_x(1, other);
                    world.guest.step(LDR);
                    let faulted = (VECTORS..VECTORS + 0x800).contains(&world.guest.vcpu.cpu.pc);
                    match slow {
                        Ok(pa) if (RAM..RAM + RAM_LEN).contains(&pa) => {
                            prop_assert!(!faulted, "{:#x} faults", other);
                            prop_assert_eq!(world.guest.x(0), world.guest.read(pa), "{:#x}", other);
                        }
                        Ok(_) => {}
                        Err(fault) => {
                            prop_assert!(faulted, "{:#x} is loaded after {:?}", other, fault);
                            prop_assert_eq!(world.guest.syndrome().1 & 0x3f, fault.status(), "{:#x}", other);
                        }
                    }
                }
            }
        }
    }
}
