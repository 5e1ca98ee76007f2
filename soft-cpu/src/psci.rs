// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The firmware interface that a guest reaches by HVC: PSCI 1.1 (DEN0022) over SMCCC 1.1 (DEN0028).
//!
//! A CPU that is turned off, and one that never was on, waits in its run loop until a sibling's CPU_ON. All
//! power states change under the lock of the CPU they belong to.

use crate::cluster::Power;
use crate::cpu::{Cpu, Leaving};
use crate::sysreg::{mpidr, vcpu_of};

/// Function identifiers. Bit 30 marks the 64-bit form, which takes the same arguments.
mod function {
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    /// Mitigations of branch target and history injection.
    pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
    pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
    pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
    pub const VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON: u32 = 0x8400_0003;
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const FEATURES: u32 = 0x8400_000a;
    pub const SIXTY_FOUR: u32 = 1 << 30;
}

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
/// SMCCC: the call is not needed on this CPU.
const NOT_REQUIRED: i64 = -2;
const UNAFFECTED: i64 = 1;

const VERSION_1_1: i64 = 0x1_0001;
/// MIGRATE_INFO_TYPE: there is no trusted OS to migrate.
const NO_TRUSTED_OS: i64 = 2;

const AFFINITY_ON: i64 = 0;
const AFFINITY_OFF: i64 = 1;
const AFFINITY_ON_PENDING: i64 = 2;

/// HVC #`immediate` at EL1.
pub(crate) fn call(cpu: &mut Cpu, immediate: u16) {
    let id = cpu.r(0) as u32;
    let result = if immediate == 0 { serve(cpu, id) } else { Some(NOT_SUPPORTED) };
    if let Some(value) = result {
        cpu.w(0, value as u64);
    }
}

/// The result for x0, unless the call does not return.
fn serve(cpu: &mut Cpu, id: u32) -> Option<i64> {
    let argument = |cpu: &Cpu, slot: u8| {
        let value = cpu.r(slot);
        if id & function::SIXTY_FOUR != 0 { value } else { value & 0xffff_ffff }
    };
    Some(match id {
        function::SMCCC_VERSION | function::VERSION => VERSION_1_1,
        function::SMCCC_ARCH_FEATURES => match cpu.r(1) as u32 {
            function::SMCCC_VERSION | function::SMCCC_ARCH_FEATURES => SUCCESS,
            function::ARCH_WORKAROUND_1 | function::ARCH_WORKAROUND_3 => UNAFFECTED,
            function::ARCH_WORKAROUND_2 => NOT_REQUIRED,
            _ => NOT_SUPPORTED,
        },
        function::ARCH_WORKAROUND_1 | function::ARCH_WORKAROUND_2 | function::ARCH_WORKAROUND_3 => SUCCESS,
        function::FEATURES => match cpu.r(1) as u32 {
            function::SMCCC_VERSION => SUCCESS,
            known if is_implemented(known) => SUCCESS,
            _ => NOT_SUPPORTED,
        },
        function::MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        function::SYSTEM_OFF => return leave(cpu, Leaving::PowerOff),
        function::SYSTEM_RESET => return leave(cpu, Leaving::Reset),
        function::CPU_OFF => {
            cpu.powered = false;
            cpu.shared().inbox().power = Power::Off;
            cpu.attend();
            return None;
        }
        _ if is_implemented(id) => match id & !function::SIXTY_FOUR {
            function::CPU_SUSPEND => {
                // Every state is taken as standby, which is to wait for an interrupt.
                cpu.wait_for_interrupt();
                SUCCESS
            }
            function::CPU_ON => {
                let (target, entry, context) = (argument(cpu, 1), argument(cpu, 2), argument(cpu, 3));
                power_on(cpu, target, entry, context)
            }
            _ => affinity_info(cpu, argument(cpu, 1), argument(cpu, 2)),
        },
        _ => NOT_SUPPORTED,
    })
}

fn is_implemented(id: u32) -> bool {
    match id {
        function::VERSION
        | function::CPU_OFF
        | function::MIGRATE_INFO_TYPE
        | function::SYSTEM_OFF
        | function::SYSTEM_RESET
        | function::FEATURES => true,
        _ => matches!(
            id & !function::SIXTY_FOUR,
            function::CPU_SUSPEND | function::CPU_ON | function::AFFINITY_INFO
        ),
    }
}

fn leave(cpu: &mut Cpu, why: Leaving) -> Option<i64> {
    cpu.leaving = Some(why);
    cpu.attend();
    None
}

fn power_on(cpu: &Cpu, target: u64, entry: u64, context: u64) -> i64 {
    let Some(shared) = vcpu_of(target).and_then(|vcpu| cpu.cluster.get(vcpu)) else {
        return INVALID_PARAMETERS;
    };
    {
        let mut inbox = shared.inbox();
        match inbox.power {
            Power::On => return ALREADY_ON,
            Power::Pending { .. } => return ON_PENDING,
            Power::Off => inbox.power = Power::Pending { entry, context },
        }
    }
    shared.wake();
    SUCCESS
}

/// The highest state of the CPUs of an affinity level: CPUs themselves, or those that share Aff1, or all.
fn affinity_info(cpu: &Cpu, target: u64, level: u64) -> i64 {
    let ignored = match level {
        0 => 0,
        1 => 0xff,
        2 => 0xffff,
        3 => 0xffff_ffff,
        _ => return INVALID_PARAMETERS,
    };
    let bits_of_affinity = 0xff_00ff_ffff_u64;
    let states = (0..cpu.cluster.vcpu_count())
        .filter(|&vcpu| {
            (mpidr(vcpu) & bits_of_affinity & !(1 << 31) ^ target) & !ignored & bits_of_affinity == 0
        })
        .filter_map(|vcpu| cpu.cluster.get(vcpu))
        .map(|shared| match shared.inbox().power {
            Power::On => AFFINITY_ON,
            Power::Off => AFFINITY_OFF,
            Power::Pending { .. } => AFFINITY_ON_PENDING,
        });
    // On is the lowest number; a CPU that comes up counts before one that is off.
    let order =
        |state: &i64| [AFFINITY_ON, AFFINITY_ON_PENDING, AFFINITY_OFF].iter().position(|s| s == state);
    states.min_by_key(order).unwrap_or(INVALID_PARAMETERS)
}
