// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a life finds of the one before, wherever that has died.

use ipc::shm::checkpoint::Checkpoint;

use super::*;

fn made() -> Made {
    let id = ObjectId;
    Made {
        device: id(1),
        ioas: id(2),
        parent: id(3),
        parent_logs: true,
        viommu: id(4),
        vdevice: id(5),
        queue: id(6),
        abort: id(7),
        bypass: id(u32::MAX),
    }
}

#[test]
fn next_life_finds_ids_and_attachment_and_none_of_an_exchange_that_was_under_way() {
    let region = Checkpoint::create("host-journal").unwrap();
    let journal = HostJournal::new(&region).unwrap();
    assert_eq!(journal.left(), None, "nothing was made yet");
    journal.keep_made(&made());
    let next = HostJournal::new(&region).unwrap();
    let left = |attached| Some(Left::Nested { made: made(), attached });
    assert_eq!(next.left(), left(Some(Attached::Abort)));
    let words = [0x8000_0000_4444_000b, 0x6400_0000];
    for attached in [Attached::Bypass, Attached::Stage1 { table: ObjectId(9), words }, Attached::Abort] {
        journal.begin_exchange();
        assert_eq!(next.left(), left(None), "before {attached:?}");
        journal.keep_attached(attached);
        assert_eq!(next.left(), left(Some(attached)));
    }
    let anew = Made { queue: ObjectId(12), ..made() };
    journal.keep_attached(Attached::Bypass);
    journal.keep_made(&anew);
    assert_eq!(next.left(), Some(Left::Nested { made: anew, attached: Some(Attached::Bypass) }));
}

#[test]
fn access_that_was_begun_is_found_until_it_is_answered() {
    let region = Checkpoint::create("host-journal").unwrap();
    let (journal, next) = (HostJournal::new(&region).unwrap(), HostJournal::new(&region).unwrap());
    assert_eq!(next.begun(), None);
    journal.begin_access(5, 0x12_3456);
    assert_eq!(next.begun(), Some((5, 0x12_3456)));
    journal.end_access();
    assert_eq!(next.begun(), None);
}

#[test]
fn device_in_software_is_known_again_and_words_of_another_layout_are_not() {
    let region = Checkpoint::create("host-journal").unwrap();
    let journal = HostJournal::new(&region).unwrap();
    journal.keep_software();
    assert_eq!(journal.left(), Some(Left::Software));
    journal.0.store(WHOLE, LAYOUT + 1);
    assert_eq!(journal.left(), None);
}
