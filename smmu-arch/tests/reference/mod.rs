// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A second, slow translation, written from the manual on its own: raw words, no types, no caches, one
//! long path. It shares nothing with the crate but the memory trait and the record it builds by hand.
#![allow(clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

use smmu_arch::memory::Memory;

/// The SMMU's registers and model, as plain numbers.
#[derive(Clone, Copy, Debug)]
pub struct Smmu {
    pub ssid_bits: u64,
    pub sid_bits: u64,
    pub oas: u64,
    pub granules: [bool; 3],
    pub strtab_base: u64,
    pub strtab_base_cfg: u64,
    pub recinvsid: bool,
}

/// A transaction, as plain numbers.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub sid: u64,
    pub ssid: Option<u64>,
    pub address: u64,
    pub read: bool,
    pub instruction: bool,
    pub privileged: bool,
}

/// An address, or an event record of four words, or a silent abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Address(u64),
    Event([u64; 4]),
    Silent,
}

fn bits(word: u64, high: u32, low: u32) -> u64 {
    (word >> low) & (u64::MAX >> (63 - (high - low)))
}

fn word<M: Memory>(memory: &M, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
}

/// A structure of eight words is one fetch: it aborts as a whole.
fn words<M: Memory>(memory: &M, address: u64) -> Option<[u64; 8]> {
    let mut bytes = [0; 64];
    memory.read(address, &mut bytes).ok()?;
    Some(core::array::from_fn(|i| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap())))
}

fn who(ask: &Ask, kind: u64) -> u64 {
    let ssid = ask.ssid.map_or(0, |ssid| ssid << 12 | 1 << 11);
    kind | ssid | ask.sid << 32
}

fn how(ask: &Ask, class: u64) -> u64 {
    class << 40
        | u64::from(ask.read) << 35
        | u64::from(ask.instruction && ask.read) << 34
        | u64::from(ask.privileged) << 33
}

pub fn translate<M: Memory>(smmu: &Smmu, memory: &M, ask: &Ask) -> Outcome {
    let oas_mask = (1u64 << smmu.oas) - 1;
    let plain = |kind| Outcome::Event([who(ask, kind), 0, 0, 0]);
    let fetch = |kind, address| Outcome::Event([who(ask, kind), 0, 0, address & oas_mask]);
    let bad_stream = if smmu.recinvsid { plain(2) } else { Outcome::Silent };

    // STE.
    let log2size = bits(smmu.strtab_base_cfg, 5, 0);
    if ask.sid >= 1 << log2size.min(smmu.sid_bits) {
        return bad_stream;
    }
    let base = smmu.strtab_base & 0x000f_ffff_ffff_ffc0;
    let ste_address = if bits(smmu.strtab_base_cfg, 17, 16) == 1 {
        let split = match bits(smmu.strtab_base_cfg, 10, 6) {
            8 => 8,
            10 => 10,
            _ => 6,
        };
        // Low bits 0 to MAX(5, LOG2SIZE - SPLIT - 1 + 3) are zero.
        let top = (log2size as i64 - split as i64 - 1 + 3).max(5) as u32;
        let l1 = (base >> (top + 1) << (top + 1)) + (ask.sid >> split) * 8;
        let Some(l1std) = word(memory, l1) else { return fetch(3, l1) };
        let span = bits(l1std, 4, 0);
        let low = ask.sid % (1 << split);
        if span == 0 || span > 11 || span > split + 1 || low >= 1 << (span - 1) {
            return bad_stream;
        }
        let zero = 6 + (span - 1);
        ((l1std & 0x000f_ffff_ffff_ffff) >> zero << zero) + low * 64
    } else if log2size + 6 >= 64 {
        ask.sid * 64
    } else {
        (base >> (log2size + 6) << (log2size + 6)) + ask.sid * 64
    };
    if ste_address & !oas_mask != 0 {
        return fetch(3, ste_address);
    }
    let Some(ste) = words(memory, ste_address) else { return fetch(3, ste_address) };
    if bits(ste[0], 0, 0) == 0 {
        return plain(4);
    }
    let bypass = || {
        if ask.address & !oas_mask == 0 {
            Outcome::Address(ask.address)
        } else {
            Outcome::Event([who(ask, 0x11), how(ask, 2), ask.address, 0])
        }
    };
    match bits(ste[0], 3, 1) {
        0..=3 => return Outcome::Silent,
        4 => {
            return match ask.ssid {
                Some(ssid) => Outcome::Event([8 | ssid << 12 | ask.sid << 32, 0, 0, 0]),
                None => bypass(),
            };
        }
        5 => {}
        _ => return plain(4),
    }
    let pointer = ste[0] & 0x000f_ffff_ffff_ffc0;
    let (mut cdmax, mut format, dss) = (bits(ste[0], 63, 59), bits(ste[0], 5, 4), bits(ste[1], 1, 0));
    if bits(ste[1], 27, 27) == 1 || pointer & !oas_mask != 0 {
        return plain(4);
    }
    if smmu.ssid_bits == 0 {
        cdmax = 0;
    }
    if cdmax > smmu.ssid_bits {
        return plain(4);
    }
    if cdmax == 0 || format == 3 {
        format = 0;
    }

    // CD.
    let no_substream = |ssid: u64| Outcome::Event([8 | ssid << 12 | ask.sid << 32, 0, 0, 0]);
    let disabled = Outcome::Event([6 | ask.sid << 32, 0, 0, 0]);
    let index = match ask.ssid {
        Some(ssid) if cdmax == 0 || ssid >= 1 << cdmax => return no_substream(ssid),
        Some(0) if dss == 2 => return disabled,
        Some(ssid) => ssid,
        None if cdmax == 0 || dss == 2 => 0,
        None if dss == 1 => return bypass(),
        None => return disabled,
    };
    let cd_address = if format == 0 {
        (pointer >> (cdmax + 6) << (cdmax + 6)) + index * 64
    } else {
        let leaf = if format == 1 { 6 } else { 10 };
        let zero = if cdmax > leaf { (cdmax - leaf + 3).max(6) } else { 6 };
        let l1 = (pointer >> zero << zero) + (index >> leaf) * 8;
        let Some(l1cd) = word(memory, l1) else { return fetch(9, l1) };
        let l2 = l1cd & 0x000f_ffff_ffff_f000;
        if l1cd & 1 == 0 || l2 & !oas_mask != 0 {
            return no_substream(index);
        }
        (l2 >> (leaf + 6) << (leaf + 6)) + index % (1 << leaf) * 64
    };
    let Some(cd) = words(memory, cd_address) else { return fetch(9, cd_address) };
    let flag = |bit| bits(cd[0], bit, bit) == 1;
    let (epd0, epd1) = (flag(14), flag(30));
    let v = flag(31);
    let (a, s, aa64, ha, hd, endi) = (flag(46), flag(44), flag(41), flag(43), flag(42), flag(15));
    if !v || !a || s || !aa64 || ha || hd || (endi && !(epd0 && epd1)) {
        return plain(10);
    }
    let ips = [32, 36, 40, 42, 44, 48, 52, 56][bits(cd[0], 34, 32) as usize].min(smmu.oas);
    let page0 = [12, 16, 14, 0][bits(cd[0], 7, 6) as usize];
    let page1 = [0, 14, 12, 16][bits(cd[0], 23, 22) as usize];
    let supported = |page| match page {
        12 => smmu.granules[0],
        14 => smmu.granules[1],
        16 => smmu.granules[2],
        _ => false,
    };
    for (epd, tsz, page, ttb) in
        [(epd0, bits(cd[0], 5, 0), page0, cd[1]), (epd1, bits(cd[0], 21, 16), page1, cd[2])]
    {
        let address = ttb & 0x000f_ffff_ffff_fff0;
        if !epd && (!(16..=39).contains(&tsz) || !supported(page) || address >> ips != 0) {
            return plain(10);
        }
    }

    // Walk.
    let record = flag(45);
    let fault = |kind| {
        if record { Outcome::Event([who(ask, kind), how(ask, 2), ask.address, 0]) } else { Outcome::Silent }
    };
    let high = bits(ask.address, 55, 55) == 1;
    let (epd, tsz, page, ttb, tbi) = if high {
        (epd1, bits(cd[0], 21, 16), page1, cd[2], flag(39))
    } else {
        (epd0, bits(cd[0], 5, 0), page0, cd[1], flag(38))
    };
    if epd {
        return fault(0x10);
    }
    let size = 64 - tsz as u32;
    for bit in size..(if tbi { 56 } else { 64 }) {
        if (ask.address >> bit & 1 == 1) != high {
            return fault(0x10);
        }
    }
    let stride = page - 3;
    // Which levels are there: the last one resolves `stride` bits above the page, and so on up.
    let mut lows = vec![page];
    while lows[0] + stride < size {
        lows.insert(0, lows[0] + stride);
    }
    let had = bits(ttb, 1, 1) == 1;
    let first_bits = size - lows[0];
    let mut table = (ttb & 0x000f_ffff_ffff_fff0) >> (first_bits + 3) << (first_bits + 3);
    let (mut ap_table, mut xn_table, mut pxn_table) = (0, 0, 0);
    for (turn, low) in lows.iter().copied().enumerate() {
        let level = 4 - lows.len() + turn;
        let top = if turn == 0 { size } else { low + stride };
        let position = table + (ask.address >> low) % (1 << (top - low)) * 8;
        let Some(descriptor) = word(memory, position) else {
            return Outcome::Event([who(ask, 11), how(ask, 1), ask.address, position]);
        };
        let kind = bits(descriptor, 1, 0);
        let is_leaf = match (kind, level, page) {
            (3, 3, _) | (1, 1 | 2, 12) | (1, 2, 14 | 16) => true,
            (3, 0..=2, _) => false,
            _ => return fault(0x10),
        };
        let address = bits(descriptor, 47, 12) << 12 >> (if is_leaf { low } else { page });
        let address = address << (if is_leaf { low } else { page });
        if address >> ips != 0 {
            return fault(0x11);
        }
        if !is_leaf {
            if !had {
                ap_table |= bits(descriptor, 62, 61);
                xn_table |= bits(descriptor, 60, 60);
                pxn_table |= bits(descriptor, 59, 59);
            }
            table = address;
            continue;
        }
        if bits(descriptor, 10, 10) == 0 && !flag(35) {
            return fault(0x12);
        }
        let mut ap = bits(descriptor, 7, 6);
        if ap_table & 1 != 0 {
            ap &= 2;
        }
        ap |= ap_table & 2;
        // AP: 0 privileged RW, 1 both RW, 2 privileged RO, 3 both RO.
        let (user_r, user_w) = (ap & 1 != 0, ap == 1);
        let (mut kernel_r, mut kernel_w) = (true, ap < 2);
        let writable = kernel_w;
        let mut user_x = bits(descriptor, 54, 54) | xn_table == 0;
        let mut kernel_x = bits(descriptor, 53, 53) | pxn_table == 0 && !user_w;
        if flag(36) {
            user_x &= !user_w;
            kernel_x &= !writable;
        }
        if flag(40) && user_r {
            (kernel_r, kernel_w) = (false, false);
        }
        let allowed = match (ask.read, ask.instruction, ask.privileged) {
            (false, _, false) => user_w,
            (false, _, true) => kernel_w,
            (true, true, false) => user_x,
            (true, true, true) => kernel_x,
            (true, false, false) => user_r,
            (true, false, true) => kernel_r,
        };
        return if allowed { Outcome::Address(address + ask.address % (1 << low)) } else { fault(0x13) };
    }
    unreachable!("the last level is a leaf or a fault")
}
