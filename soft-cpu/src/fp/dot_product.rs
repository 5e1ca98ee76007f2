// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SDOT and UDOT, by vector and by element (FEAT_DotProd): each word of the result gains the sum of four byte products.

use super::data::{Fields, with_operands};
use super::integer::extend;
use super::lanes::{Shape, Size, build, lane};
use super::state::{Execute, Machine, handler};

/// Decodes the vector form ("Advanced SIMD three-register extension").
pub fn vector<M: Machine>(word: u32) -> Option<Execute<M>> {
    (Fields(word).size() == Size::S).then_some(handler!(execute_vector))
}

/// Decodes the form by element.
pub fn by_element<M: Machine>(word: u32) -> Option<Execute<M>> {
    (Fields(word).size() == Size::S).then_some(handler!(execute_by_element))
}

fn execute_vector<M: Machine>(machine: &mut M, word: u32) {
    let m = machine.v(Fields(word).rm());
    execute(machine, word, |index| lane(m, Size::S, index));
}

fn execute_by_element<M: Machine>(machine: &mut M, word: u32) {
    let fields = Fields(word);
    // H:L is the index; M belongs to the register.
    let index = u32::from(fields.bit(11)) << 1 | u32::from(fields.bit(21));
    let element = lane(machine.v(fields.rm()), Size::S, index);
    execute(machine, word, |_| element);
}

/// `m` gives the four bytes that meet those of word `index`.
fn execute<M: Machine>(machine: &mut M, word: u32, m: impl Fn(u32) -> u64) {
    let fields = Fields(word);
    with_operands(machine, word, |_, d, n| {
        build(Shape::vector(Size::S, fields.q()), |index| {
            let (n, m) = (u128::from(lane(n, Size::S, index)), u128::from(m(index)));
            let byte = |of: u128, at: u32| extend(Size::B, !fields.u(), lane(of, Size::B, at));
            let sum: i128 = (0..4).map(|at| byte(n, at) * byte(m, at)).sum();
            lane(d, Size::S, index).wrapping_add(sum as u64)
        })
    });
}
