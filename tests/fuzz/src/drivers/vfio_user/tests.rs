// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary bodies, and streams in any pieces.

use ipc::vfio_user::header::{Command, Header, Kind};
use proptest::prelude::*;

fn le(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

proptest! {
    #[test]
    fn any_body_is_decoded_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200), fds in 0usize..4) {
        super::bodies(&body, fds);
    }

    #[test]
    fn small_words_reach_further(words in proptest::collection::vec(prop_oneof![0u32..64, any::<u32>()], 0..24), fds in 0usize..4) {
        super::bodies(&le(&words), fds);
    }

    #[test]
    fn stream_in_any_pieces_gives_the_same_messages(
        lens in proptest::collection::vec(0usize..300, 1..20),
        cuts in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        let mut stream = Vec::new();
        for len in &lens {
            let header = Header { id: 1, command: Command::REGION_WRITE, kind: Kind::Posted, body_len: *len };
            stream.extend_from_slice(&header.encode().unwrap());
            stream.resize(stream.len() + len, 7);
        }
        prop_assert_eq!(super::stream(&stream, &cuts), lens.len());
    }

    #[test]
    fn any_stream_is_survived(stream in proptest::collection::vec(0u8..40, 0..400), cuts in proptest::collection::vec(any::<u8>(), 0..5)) {
        super::stream(&stream, &cuts);
    }
}
