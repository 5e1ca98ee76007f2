// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The register file: what exists, what software can change, and when.

use super::{RegisterFile, existing_bits};
use proptest::prelude::*;
use smmu_arch::spec::control::Cr0;
use smmu_arch::spec::registers::Register;
use smmu_arch::{Model, Options};

fn model() -> Model {
    Model::new(smmu_arch::model::MODEL_NAME, Options { ssidsize: 0, oas: 44, ..Options::default() }).unwrap()
}

fn any_register() -> impl Strategy<Value = Register> {
    proptest::sample::select(Register::ALL)
}

proptest! {
    /// A write changes the writable bits of its register and nothing else in the file.
    #[test]
    fn write_changes_only_writable_bits(
        before in proptest::collection::vec((any_register(), any::<u64>()), 0..20),
        register in any_register(),
        value: u64,
    ) {
        let mut file = RegisterFile::reset(model());
        for (register, value) in before {
            file.put(register, value);
        }
        let old = file.clone();
        let mask = file.writable_bits(register);
        file.write(register, value);
        let changed = old.get(register) ^ file.get(register);
        prop_assert_eq!(changed & !mask, 0);
        for &other in Register::ALL {
            // A queue's size cuts the pointer the SMMU moves in it.
            let cut = matches!(
                (register, other),
                (Register::CMDQ_BASE, Register::CMDQ_CONS) | (Register::EVENTQ_BASE, Register::EVENTQ_PROD)
            );
            if other != register && !cut {
                prop_assert_eq!(old.get(other), file.get(other));
            }
        }
    }

    /// What can be stored is exactly what exists, except the pointer bits above a queue's wrap flag.
    #[test]
    fn put_keeps_existing_bits_only(register in any_register(), value: u64) {
        let mut file = RegisterFile::reset(model());
        let (pointers, rd_and_err) = ([Register::CMDQ_CONS, Register::EVENTQ_PROD], 0xfff0_0001u64);
        file.put(register, value);
        if Register::IDR0 <= register && register <= Register::AIDR {
            prop_assert_eq!(file.get(register), RegisterFile::reset(model()).get(register));
        } else if pointers.contains(&register) {
            prop_assert_eq!(file.get(register), value & existing_bits(&model(), register) & rd_and_err);
        } else {
            prop_assert_eq!(file.get(register), value & existing_bits(&model(), register));
        }
    }
}

#[test]
fn reset_values_are_those_documented() {
    let file = RegisterFile::reset(model());
    let not_zero: Vec<_> = Register::ALL
        .iter()
        .filter(|r| existing_bits(&model(), **r) != 0 && file.get(**r) != 0)
        .map(|r| (*r, file.get(*r)))
        .collect();
    assert_eq!(not_zero, [(Register::GBPA, 0x1000)]);
}

/// §6.3: which enable guards which register.
#[test]
fn guarded_registers_are_read_only_while_enabled() {
    let guards = [
        (Cr0::new().with_smmuen(true), Register::CR2),
        (Cr0::new().with_smmuen(true), Register::STRTAB_BASE),
        (Cr0::new().with_smmuen(true), Register::STRTAB_BASE_CFG),
        (Cr0::new().with_cmdqen(true), Register::CMDQ_BASE),
        (Cr0::new().with_cmdqen(true), Register::CMDQ_CONS),
        (Cr0::new().with_eventqen(true), Register::EVENTQ_BASE),
        (Cr0::new().with_eventqen(true), Register::EVENTQ_PROD),
    ];
    for (enable, register) in guards {
        let mut file = RegisterFile::reset(model());
        assert_ne!(file.writable_bits(register), 0, "{register:?}");
        file.put(Register::CR0, enable.into_bits().into());
        file.put(Register::CR0ACK, enable.into_bits().into());
        assert!(!file.write(register, u64::MAX), "{register:?} is writable while {enable:?}");
    }
}

#[test]
fn table_and_queue_attributes_are_guarded_apart() {
    let mut file = RegisterFile::reset(model());
    file.put(Register::CR0, 8);
    file.put(Register::CR0ACK, 8);
    file.write(Register::CR1, u64::MAX);
    assert_eq!(file.get(Register::CR1), 0xfc0, "only TABLE_* while a queue is enabled");
    file.put(Register::CR0, 1);
    file.put(Register::CR0ACK, 1);
    file.write(Register::CR1, 0x03f);
    assert_eq!(file.get(Register::CR1), 0xfff, "only QUEUE_* while translation is enabled");
}

#[test]
fn addresses_are_cut_to_the_output_address_size() {
    let mut file = RegisterFile::reset(model());
    file.put(Register::CMDQ_BASE, u64::MAX);
    assert_eq!(file.get(Register::CMDQ_BASE), 0x4000_0fff_ffff_ffff);
    file.put(Register::STRTAB_BASE, u64::MAX);
    assert_eq!(file.get(Register::STRTAB_BASE), 0x4000_0fff_ffff_ffc0);
}
