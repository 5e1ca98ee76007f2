// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary programs keep the model's invariants.

use super::run;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_programs_keep_the_invariants(program in proptest::collection::vec(any::<u8>(), 0..1400)) {
        run(&program);
    }
}
