// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use ipc::protocol::inspect::Value;
use std::io::Write;

const NAME_LEN: usize = 48;

fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap()
}

/// A file with these statistics: name, flags, count of values, value.
struct File {
    header: Header,
    bytes: Vec<u8>,
}

impl File {
    fn new(statistics: &[(&str, u32, u16, u64)]) -> Self {
        let (id_offset, desc_offset) = (24, 24 + len(NAME_LEN));
        let stride = len(size_of::<Descriptor>() + NAME_LEN);
        let count = len(statistics.len());
        let header = Header {
            flags: 0,
            name_size: len(NAME_LEN),
            num_desc: count,
            id_offset,
            desc_offset,
            data_offset: desc_offset + count * stride,
        };
        let mut bytes = vec![0; NAME_LEN];
        for (index, (name, flags, size, _)) in statistics.iter().enumerate() {
            let offset = len(8 * index);
            let descriptor = Descriptor { flags: *flags, exponent: 0, size: *size, offset, bucket_size: 0 };
            bytes.extend_from_slice(descriptor.as_bytes());
            let mut text = [0; NAME_LEN];
            text[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(text);
        }
        bytes.extend(statistics.iter().flat_map(|(.., value)| value.to_le_bytes()));
        Self { header, bytes }
    }

    fn open(&self) -> Result<Stats, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(self.header.as_bytes()).unwrap();
        file.write_all(&self.bytes).unwrap();
        Stats::of(file.into())
    }
}

const GOOD: [(&str, u32, u16, u64); 5] = [
    ("halt_poll_success_ns", 0x0902_0020, 1, 9),
    ("mmio_exit_user", 0, 1, 5),
    ("mmio_exit_kernel", 0, 1, u64::MAX),
    ("exits_of_another_kind", 0, 1, 8),
    ("exits", 0, 1, 7),
];

#[test]
fn values_are_found_by_their_whole_names() {
    let mut inspect = Inspect::new();
    File::new(&GOOD).open().unwrap().inspect("vcpu3.kvm", &mut inspect);
    let shown: Vec<(&str, &Value)> =
        inspect.entries().iter().map(|entry| (entry.name.as_str(), &entry.value)).collect();
    assert_eq!(
        shown,
        [
            ("vcpu3.kvm.exits", &Value::Counter(7)),
            ("vcpu3.kvm.mmio_exit_user", &Value::Counter(5)),
            ("vcpu3.kvm.mmio_exit_kernel", &Value::Counter(u64::MAX)),
        ]
    );
}

#[test]
fn file_that_is_not_understood_is_refused_with_what_it_says() {
    let refused = |change: &dyn Fn(&mut File)| {
        let mut file = File::new(&GOOD);
        change(&mut file);
        file.open().map(drop).unwrap_err()
    };
    for (name_size, num_desc) in [(0, 5), (257, 5), (48, 1025), (u32::MAX, u32::MAX)] {
        let why = refused(&|file| {
            file.header.name_size = name_size;
            file.header.num_desc = num_desc;
        });
        assert_eq!(why, format!("{num_desc} statistics with names of {name_size} bytes"));
    }
    // The descriptors, or the last one's name, are behind the end.
    let beyond = refused(&|file| file.header.desc_offset = u32::MAX);
    assert_eq!(beyond, "0 of 16 bytes at 0xffffffff");
    assert!(refused(&|file| file.header.num_desc = 6).contains("bytes at"));
    assert!(refused(&|file| file.header.num_desc = 4).contains("not all of exits"));
    for (flags, size) in [(1, 1), (4, 1), (0, 2), (0, 0)] {
        let mut statistics = GOOD;
        statistics[1] = ("mmio_exit_user", flags, size, 5);
        let why = File::new(&statistics).open().map(drop).unwrap_err();
        assert!(why.starts_with("mmio_exit_user is no counter"), "{why}");
    }
}

#[test]
fn value_behind_the_end_is_told_and_not_shown_as_a_number() {
    let mut file = File::new(&GOOD);
    file.header.data_offset = u32::MAX;
    let mut inspect = Inspect::new();
    file.open().unwrap().inspect("vcpu0.kvm", &mut inspect);
    let text = |index: usize| inspect.entries()[index].value.clone();
    assert_eq!(text(0), Value::Text("0 of 8 bytes at 0x10000001f".into()));
}
