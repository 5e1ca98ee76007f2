// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::collections::BTreeSet;

use super::*;
use crate::hello::Role;

#[test]
fn slot_text_is_read_back_for_every_kind() {
    let vfio12 = InstanceId::new(Role::Vfio, 12);
    for kind in SlotKind::ALL {
        for slot in [Slot::from(kind), kind.of(vfio12)] {
            assert_eq!(slot.to_string().parse(), Ok(slot));
        }
        assert!(kind.as_str().bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
    }
    let program = Slot::Program("bulkhead-smmu".to_owned());
    assert_eq!(program.to_string().parse(), Ok(program));
    assert_eq!(SlotKind::Ring.of(vfio12).to_string(), "ring:vfio12");
}

#[test]
fn slot_kinds_have_texts_of_their_own() {
    let texts: BTreeSet<&str> = SlotKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(texts.len(), SlotKind::ALL.len());
    assert!(!texts.contains(Slot::PROGRAM));
    // `ALL` is as long as the number that serde gives the last kind says.
    let last = postcard::to_allocvec(&SlotKind::OwedMap).unwrap();
    assert_eq!(usize::from(last[0]) + 1, SlotKind::ALL.len() - 2, "three lines of one kind");
}

#[test]
fn slot_texts_that_name_nothing_are_refused_by_name() {
    let texts = [
        "",
        ":",
        "ram:",
        ":vfio0",
        "ring:vfio",
        "ring:vfio00",
        "rings",
        "Ram",
        "ring:vfio0:x",
        "ring:ring",
        "program",
        "program:",
        "program:../x",
        "program:a b",
        "irq:smmu0",
    ];
    for text in texts {
        let error = text.parse::<Slot>().unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
    assert!("x".repeat(1000).parse::<Slot>().unwrap_err().to_string().len() < 200);
}
