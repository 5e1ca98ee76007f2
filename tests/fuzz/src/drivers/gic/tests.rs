// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary sequences of accesses.

use proptest::prelude::*;

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        super::run(&bytes);
    }
}
