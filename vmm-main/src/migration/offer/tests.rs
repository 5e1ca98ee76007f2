// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of an offer, and a sentence for every field that differs.

use super::*;

fn offer() -> Offer {
    let vcpu = "vcpu".parse().unwrap();
    let features = vec![("counter frequency".to_owned(), "62500000 Hz".to_owned())];
    Offer { machine: machine(), processes: vec![(vcpu, features)] }
}

fn machine() -> Machine {
    Machine {
        machine: "bulkhead-1".to_owned(),
        memory_len: 512 << 20,
        ram: vec![(0x4000_0000, 512 << 20)],
        vcpu_count: 2,
        cpu: "soft".to_owned(),
        pmu: true,
        smmu: Smmu {
            model: "smmu-1".to_owned(),
            sidsize: 16,
            ssidsize: 0,
            oas: 40,
            granules: [true, false, true],
            ril: true,
            stream_table_levels: 2,
        },
        devices: vec![Device {
            kind: "nvme".to_owned(),
            slot: 1,
            disk: Some(Disk { len: 1 << 30, readonly: false, serial: Some("S1".to_owned()), file: [7, 8] }),
        }],
        boot: Boot { kernel: [0x11; 32], initramfs: None, cmdline: "quiet".to_owned() },
        runs: true,
    }
}

/// Of version 1, which hosts of an earlier release send, behind the version.
const MACHINE: &str = "0a62756c6b686561642d3180808080020180808080048080808002020\
4736f66740106736d6d752d311000280100010102010\
46e766d6501018080808004000102533107081111111111111111111111111111111111111111111111111111111111111111\
000571756965740\
1";

#[test]
fn offer_of_this_version_and_of_the_one_before_have_these_bytes() {
    let processes =
        format!("01010001{}{}", "11636f756e746572206672657175656e6379", "0b363235303030303020487a");
    let bytes = offer().to_bytes().unwrap();
    assert_eq!(hex(&bytes), format!("0200{MACHINE}{processes}"));
    assert_eq!(Offer::from_bytes(&bytes), Ok(offer()));
    let before = [&1_u16.to_le_bytes()[..], &postcard::to_stdvec(&machine()).unwrap()].concat();
    assert_eq!(hex(&before), format!("0100{MACHINE}"));
    assert_eq!(Offer::from_bytes(&before), Ok(Offer { machine: machine(), processes: vec![] }));
}

#[test]
fn offer_that_is_cut_continued_or_of_another_version_is_refused() {
    let bytes = offer().to_bytes().unwrap();
    for len in 0..bytes.len() {
        assert_eq!(Offer::from_bytes(&bytes[..len]), Err(OfferError::Malformed), "{len} bytes");
    }
    assert_eq!(Offer::from_bytes(&[&bytes[..], &[0]].concat()), Err(OfferError::Malformed));
    for version in [0, 3] {
        let other = [&[version, 0], &bytes[2..]].concat();
        assert_eq!(Offer::from_bytes(&other), Err(OfferError::Version(version.into())));
    }
}

#[test]
fn difference_names_field_both_values_and_where_to_change_it() {
    type Change = fn(&mut Machine);
    let changes: [(&str, Change); 20] = [
        ("machine", |it| it.machine.push('x')),
        ("memory", |it| it.memory_len += 1),
        ("memory layout", |it| it.ram.push((1, 2))),
        ("vcpus", |it| it.vcpu_count = 3),
        ("cpu", |it| it.cpu = "kvm".to_owned()),
        ("pmu", |it| it.pmu = false),
        ("smmu model", |it| it.smmu.model.push('x')),
        ("smmu.sidsize", |it| it.smmu.sidsize = 1),
        ("smmu.ssidsize", |it| it.smmu.ssidsize = 1),
        ("smmu.oas", |it| it.smmu.oas = 48),
        ("smmu.granules", |it| it.smmu.granules = [true; 3]),
        ("smmu.ril", |it| it.smmu.ril = false),
        ("smmu.stream-table-levels", |it| it.smmu.stream_table_levels = 1),
        ("number of devices", |it| it.devices.clear()),
        ("device 0, kind", |it| it.devices[0].kind = "vfio-user".to_owned()),
        ("device 0, slot", |it| it.devices[0].slot = 9),
        ("device 0, bytes of the disk", |it| it.devices[0].disk.as_mut().unwrap().len = 512),
        ("device 0, file", |it| it.devices[0].disk.as_mut().unwrap().file = [7, 9]),
        ("cmdline", |it| it.boot.cmdline.clear()),
        ("kernel", |it| it.boot.kernel = [0; 32]),
    ];
    assert_eq!(machine().differences(&machine()), Vec::<String>::new());
    for (field, change) in changes {
        let mut other = machine();
        change(&mut other);
        let found = machine().differences(&other);
        let [sentence] = &found[..] else { panic!("{field}: {found:?}") };
        assert!(sentence.starts_with(field), "{field}: {sentence}");
        assert!(sentence.contains(" at the source, ") && sentence.contains(" here: "), "{sentence}");
    }
    let paused = Machine { runs: false, ..machine() };
    assert_eq!(paused.differences(&machine()), Vec::<String>::new(), "a paused guest may move too");
}
