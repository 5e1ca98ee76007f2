// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that changes is published, in an order a polling guest can rely on.

use super::{GUEST_OWNED, ORDER, Publisher, RegisterSink};
use crate::Smmu;
use crate::regfile::existing_bits;
use smmu_arch::spec::control::Gerror;
use smmu_arch::spec::registers::Register;
use smmu_arch::spec::tables::CommandError;
use smmu_arch::{Model, Options};

#[derive(Default)]
struct Log(Vec<(u64, u64)>);

impl RegisterSink for Log {
    fn store_u32(&mut self, offset: u64, value: u32) {
        self.0.push((offset, value.into()));
    }

    fn store_u64(&mut self, offset: u64, value: u64) {
        self.0.push((offset, value));
    }
}

impl Log {
    fn position(&self, register: Register) -> usize {
        self.0.iter().position(|(offset, _)| *offset == register.offset()).expect("register was published")
    }
}

fn model() -> Model {
    Model::new(smmu_arch::model::MODEL_NAME, Options::default()).unwrap()
}

#[test]
fn every_register_with_state_is_in_the_order_of_publication() {
    for &register in Register::ALL {
        assert_eq!(
            existing_bits(&model(), register) != 0,
            ORDER.contains(&register),
            "{register:?} has state and must be published, or has none and must not"
        );
    }
}

#[test]
fn the_whole_file_is_published_at_the_start() {
    let mut log = Log::default();
    let smmu = Smmu::new(model());
    Publisher::publish_all(&smmu, &mut log);
    assert_eq!(log.0.len(), Register::ALL.len());
    assert!(log.0.contains(&(Register::IDR0.offset(), smmu.read(0, 4))));
}

#[test]
fn results_are_published_before_what_announces_them() {
    let mut smmu = Smmu::new(model());
    let mut publisher = Publisher::publish_all(&smmu, &mut Log::default());
    smmu.registers.put(Register::EVENTQ_PROD, 1);
    smmu.registers.set_command_error(CommandError::Ill);
    smmu.registers.put(Register::GERROR, Gerror::new().with_cmdq_err(true).into_bits().into());
    smmu.registers.put(Register::CR0, 8);
    smmu.registers.put(Register::CR0ACK, 8);
    let mut log = Log::default();
    publisher.publish(&smmu, &mut log);
    let order =
        [Register::EVENTQ_PROD, Register::CMDQ_CONS, Register::GERROR, Register::CR0, Register::CR0ACK];
    assert_eq!(order.map(|register| log.position(register)), [0, 1, 2, 3, 4]);

    let mut again = Log::default();
    publisher.publish(&smmu, &mut again);
    assert!(again.0.is_empty(), "nothing changed, nothing is stored");
}

#[test]
fn registers_of_the_guest_are_left_alone_once_it_runs() {
    let mut smmu = Smmu::new(model());
    let mut publisher = Publisher::publish_all(&smmu, &mut Log::default());
    for register in GUEST_OWNED {
        smmu.registers.put(register, 1);
    }
    let mut log = Log::default();
    publisher.publish(&smmu, &mut log);
    assert!(log.0.is_empty());
}
