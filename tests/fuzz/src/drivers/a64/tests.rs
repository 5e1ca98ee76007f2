// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random guests: whatever they are, the host side survives.

use proptest::prelude::*;

use super::run;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_words_never_panic(bytes in proptest::collection::vec(any::<u8>(), 36..600)) {
        run(&bytes);
    }

    #[test]
    fn plausible_words_never_panic(
        setup in proptest::array::uniform32(any::<u8>()),
        words in proptest::collection::vec((any::<u32>(), 0usize..12), 8..200),
    ) {
        // Encodings with the decision bits of classes that random words rarely hit.
        const CLASSES: [(u32, u32); 12] = [
            (0xd500_0000, 0x003f_ffff), // system
            (0xd518_0000, 0x0027_ffff), // system registers
            (0xd508_7000, 0x0007_0fff), // maintenance
            (0x0800_0000, 0xc0ff_ffff), // exclusives
            (0x3820_0000, 0xc0df_f3ff), // atomics
            (0x2800_0000, 0xc1ff_ffff), // pairs
            (0x3800_0000, 0xc1ff_ffff), // single loads and stores
            (0x1400_0000, 0x8000_00ff), // short branches
            (0x0c00_0000, 0x41ff_ffff), // structures
            (0x0e00_0000, 0x71ff_ffff), // vectors
            (0xd69f_0000, 0x0060_03e0), // eret and its neighbours
            (0x0000_0000, 0xffff_ffff), // anything
        ];
        let mut bytes = setup.to_vec();
        for (random, class) in words {
            let (fixed, free) = CLASSES[class];
            bytes.extend((fixed | random & free).to_le_bytes());
        }
        run(&bytes);
    }
}

#[test]
fn nothing_to_run_is_no_guest() {
    run(&[]);
    run(&[0; 35]);
}
