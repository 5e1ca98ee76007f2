// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looks at a real register page.

use super::*;
use ipc::shm::command_queue::CommandQueue;
use ipc::shm::register_page::RegisterPage;

const CR0ACK: u64 = 0x24;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const STEP: Duration = Duration::from_millis(50);

/// A queue of 256 commands, and what looks at it.
struct Smmu(RegisterPage, CommandWait);

impl Smmu {
    fn new() -> Self {
        let page = RegisterPage::attach(&RegisterPage::create("page").unwrap()).unwrap();
        page.store_u32(4, 8 << 21);
        page.store_u32(CR0ACK, 1 << 3);
        page.store_u64(CMDQ_BASE, 8);
        Self(page, CommandWait::default())
    }

    fn look(&mut self, cons: u32, prod: u32) -> Look {
        self.0.store_u32(CMDQ_CONS, cons);
        self.0.store_u32(CMDQ_PROD, prod);
        self.1.look(CommandQueue::new(self.0.clone()).waiting(), STEP)
    }
}

#[test]
fn commands_are_overdue_when_they_have_waited_and_begin_anew_when_they_are_consumed() {
    let mut smmu = Smmu::new();
    assert_eq!(smmu.look(0, 0), Look::Idle);
    assert_eq!(smmu.look(0, 4), Look::Begun);
    for _ in 0..4 {
        assert_eq!(smmu.look(0, 4), Look::Waiting);
    }
    assert_eq!(smmu.look(0, 4), Look::Overdue);
    assert_eq!(smmu.look(3, 9), Look::Overdue, "that others are consumed is not enough");
    assert_eq!(smmu.look(4, 9), Look::Begun, "the others' time begins");
    assert_eq!(smmu.look(4, 9), Look::Waiting);
    assert_eq!(smmu.look(9, 9), Look::Idle);
    assert!(smmu.1.is_idle());
}

#[test]
fn busy_queue_that_is_never_empty_is_not_overdue_while_it_moves() {
    let mut smmu = Smmu::new();
    for round in 0..1000u32 {
        let look = smmu.look(round * 2 % 512, (round * 2 + 3) % 512);
        assert!(matches!(look, Look::Begun | Look::Waiting), "{look:?} in round {round}");
    }
}

#[test]
fn command_that_comes_later_is_overdue_within_twice_the_time() {
    let mut smmu = Smmu::new();
    // Each batch is consumed just before it would be overdue, and the next comes right behind it.
    let (mut cons, mut prod, mut waited) = (0, 1, 0);
    assert_eq!(smmu.look(cons, prod), Look::Begun);
    prod = 2;
    while smmu.look(cons, prod) != Look::Overdue {
        waited += 1;
        if waited == 4 {
            cons = 1;
        }
        assert!(STEP * waited < WAIT_MAX * 2, "the second has waited for {waited} looks");
    }
}
