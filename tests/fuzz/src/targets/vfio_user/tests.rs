// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seeds get where mutations should start from.

use super::{driver, stream_seeds, valid};

#[test]
fn a_stream_seed_is_all_messages_there_are() {
    for seed in stream_seeds() {
        let (_, stream) = seed.split_at(1 + usize::from(seed[0]));
        assert_eq!(driver::stream(stream, &[]), valid().len());
    }
}
