// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers have the form in which the seeds are written.

use super::Program;

#[test]
fn number_is_its_length_and_then_its_bytes() {
    let mut program = Program::new(&[2, 0x12, 0x34, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0xaa]);
    assert_eq!([program.number(), program.number(), program.number()], [0x1234, 0x0102_0304_0506_0708, 0]);
    assert_eq!(program.number(), 0xaa, "a length that is no length means few");
    assert!(program.is_over());
}

#[test]
fn program_that_has_ended_goes_on_with_zeros() {
    let mut program = Program::new(&[3, 0xff]);
    assert_eq!(program.number(), 0xff_0000);
    assert_eq!((program.byte(), program.fixed(8), program.number()), (0, 0, 0));
}
