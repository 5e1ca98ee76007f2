// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SYS: cache maintenance, DC ZVA, address translation, TLB maintenance.
//!
//! Data caches do not exist, so their maintenance only checks that the address may be used. The instruction
//! cache is the decoded-code cache. What is broadcast to the inner shareable domain is queued for every other
//! CPU; DSB waits for it.

use crate::cluster::Maintenance;
use crate::code::CodeChange;
use crate::cpu::Cpu;
use crate::debug::Watched;
use crate::mmu::{Access, Fault};
use crate::op::{Op, bits, sign_extend};
use crate::sysreg::name;

/// SCTLR_EL1 bits that let EL0 maintain caches and zero blocks.
const DZE: u64 = 1 << 14;
const UCI: u64 = 1 << 26;

pub(super) fn decode(word: u32) -> Option<Op> {
    let (op1, crn, crm, op2) = (bits(word, 18, 16), bits(word, 15, 12), bits(word, 11, 8), bits(word, 7, 5));
    let run = match (op1, crn, crm, op2) {
        // IC IALLUIS, IALLU, IVAU.
        (0, 7, 1, 0) => |cpu: &mut Cpu, _: &Op| privileged(cpu, invalidate_all_code),
        (0, 7, 5, 0) => |cpu: &mut Cpu, _: &Op| privileged(cpu, invalidate_all_code),
        (3, 7, 5, 1) => invalidate_code,
        // DC IVAC; ISW, CSW, CISW; CVAC, CVAU, CIVAC; ZVA.
        (0, 7, 6, 1) => |cpu: &mut Cpu, op: &Op| maintain_data(cpu, op, false),
        (0, 7, 6 | 10 | 14, 2) => |cpu: &mut Cpu, _: &Op| privileged(cpu, |_| {}),
        (3, 7, 10 | 11 | 14, 1) => |cpu: &mut Cpu, op: &Op| maintain_data(cpu, op, true),
        (3, 7, 4, 1) => zero_block,
        // AT S1E1R, S1E1W, S1E0R, S1E0W.
        (0, 7, 8, 0..=3) => translate_address,
        // TLBI, to the inner shareable domain and local.
        (0, 8, 3 | 7, 0 | 1 | 2 | 3 | 5 | 7) => invalidate_translations,
        _ => return None,
    };
    let mut op = Op::new(word, run);
    op.a = op2 as u8;
    // CRm 3: broadcast.
    op.imm = u64::from(crm == 3);
    Some(op)
}

fn privileged(cpu: &mut Cpu, action: fn(&mut Cpu)) {
    if cpu.el == 0 {
        cpu.undefined();
    } else {
        action(cpu);
    }
}

/// Whether EL0 may do what SCTLR_EL1 bit `permission` allows; if not, the trap has been taken.
fn allowed(cpu: &mut Cpu, op: &Op, permission: u64) -> bool {
    let allowed = cpu.el == 1 || cpu.sys.sctlr & permission != 0;
    if !allowed {
        cpu.system_trap(op.word);
    }
    allowed
}

fn invalidate_all_code(cpu: &mut Cpu) {
    cpu.code_changes.push(CodeChange::All);
    cpu.leave();
    cpu.broadcast(Maintenance::CodeAll);
}

fn invalidate_code(cpu: &mut Cpu, op: &Op) {
    if !allowed(cpu, op, UCI) {
        return;
    }
    let va = cpu.r(op.d);
    match cpu.translate(va, Access::Maintain, cpu.el) {
        Err(fault) => {
            cpu.data_abort(va, Access::Maintain, fault);
        }
        Ok(found) => {
            cpu.code_changes.push(CodeChange::Line(found.pa));
            cpu.leave();
            cpu.broadcast(Maintenance::CodeLine(found.pa));
        }
    }
}

fn maintain_data(cpu: &mut Cpu, op: &Op, from_el0: bool) {
    if !from_el0 && cpu.el == 0 {
        return cpu.undefined();
    }
    if !allowed(cpu, op, UCI) {
        return;
    }
    let va = cpu.r(op.d);
    let table = cpu.tlb.table();
    if cpu.tlb.read::<0>(table, va).is_none()
        && let Err(fault) = cpu.translate(va, Access::Maintain, cpu.el)
    {
        cpu.data_abort(va, Access::Maintain, fault);
    } else if !from_el0 {
        // Invalidating a line is a store to its watchers; if one takes an exception there is nothing else to do.
        let _ = cpu.watch(table, va & !63, 64, Watched::Invalidate);
    }
}

/// DC ZVA. The block is 64 bytes, as DCZID_EL0 says.
fn zero_block(cpu: &mut Cpu, op: &Op) {
    let va = cpu.r(op.d) & !63;
    if !allowed(cpu, op, DZE) {
        return;
    }
    if let Some(block) = cpu.tlb.write::<6>(cpu.tlb.table(), va) {
        return block.zero();
    }
    match cpu.translate(va, Access::Write, cpu.el) {
        // FAR is the address as it was given.
        Ok(found) if found.traits.device => {
            let given = cpu.r(op.d);
            cpu.data_abort(given, Access::Write, Fault::Alignment);
        }
        Err(fault) => {
            let given = cpu.r(op.d);
            cpu.data_abort(given, Access::Write, fault);
        }
        Ok(_) => {
            for offset in (0..64).step_by(8) {
                if cpu.store::<3>(va + offset, 0).is_none() {
                    return;
                }
            }
        }
    }
}

fn translate_address(cpu: &mut Cpu, op: &Op) {
    if cpu.el == 0 {
        return cpu.undefined();
    }
    let access = if op.a & 1 == 1 { Access::Write } else { Access::Read };
    let el = if op.a & 2 == 0 { 1 } else { 0 };
    // PAR_EL1: NS and the implementation defined bits read as one and zero.
    cpu.sys.par = match cpu.translate(cpu.r(op.d), access, el) {
        Ok(found) => {
            let shareability = if found.traits.device { 2 } else { u64::from(found.shareability) };
            u64::from(found.attributes) << 56
                | found.pa & 0x0000_ffff_ffff_f000
                | 1 << 11
                | 1 << 9
                | shareability << 7
        }
        Err(fault) => 1 << 11 | fault.status() << 1 | 1,
    };
}

fn invalidate_translations(cpu: &mut Cpu, op: &Op) {
    if cpu.el == 0 {
        return cpu.undefined();
    }
    let argument = cpu.r(op.d);
    let what = match op.a {
        0 => Maintenance::TlbAll,
        2 => Maintenance::TlbAsid(name::asid_of(argument, cpu.sys.tcr)),
        // By address: for one ASID, for all, and the last-level forms. Pages are forgotten for every ASID.
        _ => Maintenance::TlbPage(sign_extend(argument & 0xfff_ffff_ffff, 44) << 12),
    };
    cpu.apply_maintenance(what);
    if op.imm == 1 {
        cpu.broadcast(what);
    }
    cpu.leave();
}
