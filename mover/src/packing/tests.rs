// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that become shorter, those that do not, and blocks that are none.

use ipc::migration::pages::STRETCH_LEN_MAX;
use ipc::protocol::mover::Packing;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

use super::{Packer, PackingError, Unpacker};

/// Numbers that repeat themselves after `period` bytes.
fn repeated(len: usize, period: usize) -> Vec<u8> {
    let noise = (0..period as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]);
    noise.collect::<Vec<_>>().into_iter().cycle().take(len).collect()
}

#[test]
fn pages_come_back_and_those_that_would_become_longer_are_not_packed() {
    let (mut packer, mut unpacker) = (Packer::new(Packing::Lz4), Unpacker::default());
    for len in [4096, 7 * 4096, STRETCH_LEN_MAX] {
        let bytes = repeated(len, 100);
        let block = packer.pack(&bytes).unwrap();
        assert!(block.len() < len / 8, "{} of {len}", block.len());
        assert_eq!(unpacker.unpack(block, len).unwrap(), bytes);
        // The next one does not refer to it.
        let block = packer.pack(&bytes).unwrap().to_vec();
        assert_eq!(Unpacker::default().unpack(&block, len).unwrap(), bytes);
    }
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56).to_le_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(STRETCH_LEN_MAX).collect();
    assert_eq!(packer.pack(&noise), None);
    assert_eq!(packer.pack(&[]), None);
    assert_eq!(Packer::new(Packing::Plain).pack(&repeated(4096, 1)), None);
}

#[test]
fn block_of_another_length_than_its_pages_is_refused() {
    let (mut packer, mut unpacker) = (Packer::new(Packing::Lz4), Unpacker::default());
    let block = packer.pack(&repeated(2 * 4096, 64)).unwrap().to_vec();
    let shorter = unpacker.unpack(&block, 3 * 4096).map(<[u8]>::len);
    assert!(matches!(shorter, Err(PackingError::Length { found: 0x2000, expected: 0x3000 })), "{shorter:?}");
    let longer = unpacker.unpack(&block, 4096).map(<[u8]>::len);
    assert!(matches!(longer, Err(PackingError::Block(_))), "{longer:?}");
    assert!(unpacker.unpack(&block, STRETCH_LEN_MAX + 1).is_err());
    assert!(unpacker.unpack(&[], 4096).is_err());
}

proptest! {
    #[test]
    fn any_pages_come_back(bytes in vec(any::<u8>(), 1..300), len in 1_usize..3 * 4096) {
        let bytes: Vec<u8> = bytes.into_iter().cycle().take(len).collect();
        if let Some(block) = Packer::new(Packing::Lz4).pack(&bytes) {
            prop_assert_eq!(block.len() < bytes.len(), true);
            let mut unpacker = Unpacker::default();
            prop_assert_eq!(unpacker.unpack(block, len).unwrap(), &bytes[..]);
        }
    }

    #[test]
    fn no_block_gives_more_or_fewer_bytes_than_are_due(block in vec(any::<u8>(), 0..600), len in 1_usize..9000) {
        if let Ok(bytes) = Unpacker::default().unpack(&block, len) {
            prop_assert_eq!(bytes.len(), len);
        }
    }
}
