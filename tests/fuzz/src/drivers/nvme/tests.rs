// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary programs.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_program_is_survived(program in proptest::collection::vec(any::<u8>(), 0..600), enabled: bool) {
        super::run(&program, enabled);
    }
}

proptest! {
    // Each one is a server, with its threads.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_client_is_survived(program in proptest::collection::vec(any::<u8>(), 0..400), enabled: bool) {
        super::client(&program, enabled);
    }
}
