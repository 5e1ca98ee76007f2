// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes that are torn anywhere, authors in turn, and memory that no author has written.

use proptest::prelude::*;

use super::*;

fn object() -> (Region, Checkpoint) {
    let region = Checkpoint::create("checkpoint").unwrap();
    let checkpoint = Checkpoint::attach(&region).unwrap();
    (region, checkpoint)
}

/// What the next life finds.
fn found(region: &Region) -> Option<Vec<u8>> {
    Checkpoint::attach(region).unwrap().read()
}

fn store(checkpoint: &Checkpoint, index: usize, value: u64) {
    checkpoint.words[index].store(value, Relaxed);
}

#[test]
fn latest_checkpoint_is_found_by_each_life_and_followed_by_its_own() {
    let (region, mut author) = object();
    assert_eq!(found(&region), None);
    for life in 0..5_u8 {
        author.adopt();
        for turn in 0..4 {
            let bytes = vec![life * 16 + turn; usize::from(turn) * 100 + 1];
            author.write(&bytes).unwrap();
            assert_eq!(found(&region), Some(bytes));
        }
        author = Checkpoint::attach(&region).unwrap();
    }
}

#[test]
fn checkpoint_of_full_length_fits_and_a_longer_one_changes_nothing() {
    let (region, mut author) = object();
    let full = vec![0xa5; BYTES_MAX];
    author.write(&full).unwrap();
    assert_eq!(author.write(&vec![0; BYTES_MAX + 1]), Err(TooLong { len: BYTES_MAX + 1 }));
    assert_eq!(found(&region), Some(full));
}

#[test]
fn object_of_another_size_is_refused() {
    let region = Region::create("other", 4096).unwrap();
    assert!(Checkpoint::attach(&region).is_err());
}

#[test]
fn author_that_left_the_last_of_all_numbers_is_followed() {
    let (region, mut author) = object();
    author.sequence = u64::MAX - 2;
    for turn in 1..=6_u8 {
        author.write(&[turn]).unwrap();
        assert_eq!(found(&region), Some(vec![turn]), "sequence {:#x}", author.sequence);
        author = Checkpoint::attach(&region).unwrap();
        author.adopt();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Of a write that is torn in any order of its stores, all or nothing is found.
    #[test]
    fn write_of_which_any_stores_are_missing_is_found_whole_or_leaves_the_one_before(
        before in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..4),
        torn in prop::collection::vec(any::<u8>(), 1..80),
        done in prop::collection::vec(any::<bool>(), 80),
    ) {
        let (region, mut author) = object();
        before.iter().for_each(|bytes| author.write(bytes).unwrap());
        let sequence = author.sequence + 1;
        let all: Vec<_> = stores(sequence, &torn).unwrap().collect();
        // The last store makes it whole; without it the header is that of an older write, or none.
        for ((index, value), _) in all.iter().zip(&done).filter(|(_, done)| **done) {
            store(&author, *index, *value);
        }
        let left = found(&region);
        prop_assert!(left == before.last().cloned() || left == Some(torn), "{left:?}");
    }

    /// The same of an author that dies between two stores.
    #[test]
    fn write_that_ends_after_any_store_leaves_the_one_before(
        before in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 1..4),
        torn in prop::collection::vec(any::<u8>(), 1..80),
        count in 0..16_usize,
    ) {
        let (region, mut author) = object();
        before.iter().for_each(|bytes| author.write(bytes).unwrap());
        let all: Vec<_> = stores(author.sequence + 1, &torn).unwrap().collect();
        let count = count.min(all.len() - 1);
        all.iter().take(count).for_each(|(index, value)| store(&author, *index, *value));
        prop_assert_eq!(found(&region), before.last().cloned());
        // The next life is the author of a slot that nobody needs.
        let mut next = Checkpoint::attach(&region).unwrap();
        next.adopt();
        next.write(b"next").unwrap();
        prop_assert_eq!(found(&region), Some(b"next".to_vec()));
    }

    /// Whatever stands there, it is read without harm, and followed.
    #[test]
    fn memory_that_no_author_has_written_is_read_and_followed(
        words in prop::collection::vec((0..2 * SLOT_WORDS, any::<u64>()), 0..40),
    ) {
        let (region, mut author) = object();
        author.write(b"mine").unwrap();
        words.iter().for_each(|(index, value)| store(&author, *index, *value));
        let left = found(&region);
        prop_assert!(left.is_none_or(|bytes| (1..=BYTES_MAX).contains(&bytes.len())));
        let mut next = Checkpoint::attach(&region).unwrap();
        next.adopt();
        next.write(b"next").unwrap();
        prop_assert_eq!(found(&region), Some(b"next".to_vec()));
    }
}
