// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saving and restoring.

use super::machine::{CODE, Guest, parts};
use crate::Vcpu;
use crate::saved::{DebugPointV1, PmuV1, RestoreError, VcpuV1};

/// A state with a different value in every field, as far as registers can hold it.
fn unusual() -> VcpuV1 {
    let mut next = 0x0123_4567_89ab_cdefu64;
    let mut value = || {
        next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        next
    };
    let saved = VcpuV1 {
        x: std::array::from_fn(|_| value()),
        sp_el0: value(),
        sp_el1: value(),
        pc: value() & !3,
        pstate: 0xa020_0345,
        v: std::array::from_fn(|_| u128::from(value()) << 64 | u128::from(value())),
        fpcr: value(),
        fpsr: value(),
        sctlr: value() & !1,
        cpacr: value(),
        ttbr0: value(),
        ttbr1: value(),
        tcr: value(),
        mair: value(),
        esr: value(),
        far: value(),
        par: value(),
        vbar: value(),
        elr: value(),
        spsr: value(),
        contextidr: value(),
        tpidr_el0: value(),
        tpidrro_el0: value(),
        tpidr_el1: value(),
        cntkctl: value(),
        csselr: value(),
        mdscr: value(),
        os_lock: 0,
        breakpoints: std::array::from_fn(|_| DebugPointV1 { control: value(), value: value() }),
        watchpoints: std::array::from_fn(|_| DebugPointV1 { control: value(), value: value() }),
        pmu: PmuV1 {
            pmcr: value() | 1,
            pmcntenset: value(),
            pmovsset: value(),
            pmintenset: value(),
            pmselr: value(),
            pmuserenr: value() | 1,
            pmccntr: value(),
            pmccfiltr: value() | 1 << 31,
            pmevcntr: std::array::from_fn(|_| value() as u32),
            pmevtyper: std::array::from_fn(|_| value()),
        },
        cntv_ctl: 3,
        cntv_cval: value(),
        cntp_ctl: 2,
        cntp_cval: value(),
        event: 1,
        power: 2,
        power_entry: value(),
        power_context: value(),
    };
    // Once through a CPU, so that only bits that exist are left.
    restore(&saved).expect("a state of this CPU").save()
}

fn restore(saved: &VcpuV1) -> Result<Vcpu, RestoreError> {
    Vcpu::restore(0, parts(1).0, saved)
}

#[test]
fn restored_state_saves_the_same() {
    let saved = unusual();
    assert_eq!(restore(&saved).unwrap().save(), saved);
    let fresh = Guest::new().vcpu.save();
    assert_eq!(restore(&fresh).unwrap().save(), fresh);
}

#[test]
fn every_field_takes_part() {
    let saved = unusual();
    // A field that save or restore forgot would read as that of a new CPU.
    let fresh = Vcpu::new(0, parts(1).0).save();
    macro_rules! differ {
        ($($field:ident $(.$part:ident)?)*) => {
            $(assert_ne!(saved.$field$(.$part)?, fresh.$field$(.$part)?, stringify!($field $(.$part)?));)*
        };
    }
    differ!(x sp_el0 sp_el1 pc pstate v fpcr fpsr sctlr cpacr ttbr0 ttbr1 tcr mair esr far par vbar elr spsr
        contextidr tpidr_el0 tpidrro_el0 tpidr_el1 cntkctl csselr mdscr os_lock breakpoints watchpoints cntv_ctl cntv_cval cntp_ctl cntp_cval
        event power power_entry power_context);
    differ!(pmu.pmcr pmu.pmcntenset pmu.pmovsset pmu.pmintenset pmu.pmselr pmu.pmuserenr pmu.pmccntr pmu.pmccfiltr
        pmu.pmevcntr pmu.pmevtyper);
}

#[test]
fn both_stack_pointers_survive_either_selection() {
    for pstate in [0x0, 0x3c4, 0x3c5] {
        let saved = VcpuV1 { pstate, sp_el0: 0x1000, sp_el1: 0x2000, ..unusual() };
        let again = restore(&saved).unwrap().save();
        assert_eq!((again.sp_el0, again.sp_el1, again.pstate), (0x1000, 0x2000, pstate));
    }
}

#[test]
fn impossible_states_are_refused() {
    for pstate in [0x1, 0x8, 0x9, 0xd, 0x10, 0x1f] {
        let saved = VcpuV1 { pstate, ..unusual() };
        assert_eq!(restore(&saved).err(), Some(RestoreError::Pstate(pstate)));
    }
    let saved = VcpuV1 { power: 3, ..unusual() };
    assert_eq!(restore(&saved).err(), Some(RestoreError::Power(3)));
}

#[test]
fn bits_that_no_register_has_are_dropped() {
    let saved = VcpuV1 { sctlr: !1, fpcr: u64::MAX, tcr: u64::MAX, vbar: u64::MAX, ..unusual() };
    let again = restore(&saved).unwrap().save();
    assert_eq!((again.fpcr, again.vbar), (0x07c0_0000, !0x7ff));
    assert_eq!(again.sctlr >> 25 & 1, 0);
}

#[test]
fn guest_goes_on_where_it_was() {
    let mut guest = Guest::new();
    guest.place(CODE, &[0x9100_0400; 10]); // add x0, x0, #1
    guest.vcpu.run_steps(5);
    let saved = guest.vcpu.save();
    let mut other = Vcpu::restore(0, guest.parts.clone(), &saved).unwrap();
    other.run_steps(5);
    assert_eq!((other.save().x[0], other.save().pc), (10, CODE + 40));
}
