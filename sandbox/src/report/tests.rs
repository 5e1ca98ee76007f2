// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading a page that somebody else wrote, honestly or not.

use super::*;
use crate::profile::Arch;
use crate::profiles;

fn page_of(words: &[(usize, u64)]) -> CrashPage {
    let page = CrashPage::create().unwrap();
    for (index, word) in words {
        rustix::io::pwrite(&page, &word.to_ne_bytes(), (index * 8) as u64).unwrap();
    }
    page
}

const DENIED: [(usize, u64); 4] = [
    (layout::FATAL_STATE, layout::COMPLETE),
    (layout::FATAL_KIND, layout::KIND_DENIED),
    (layout::FATAL_NUMBER, 1023),
    (layout::FATAL_ARCH, Arch::host().audit_arch() as u64),
];

#[test]
fn page_cannot_change_its_size() {
    let page = CrashPage::create().unwrap();
    assert!(rustix::fs::ftruncate(&page, 0).is_err());
    assert!(rustix::fs::ftruncate(&page, 1 << 20).is_err());
    assert!(rustix::fs::fcntl_add_seals(&page, rustix::fs::SealFlags::WRITE).is_err());
}

#[test]
fn other_file_is_no_crash_page() {
    let file = rustix::fs::memfd_create(c"x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert!(CrashPage::from_fd(file).is_err());
}

#[test]
fn empty_page_says_nothing() {
    assert_eq!(read(&page_of(&[]), &profiles::smmu()), None);
}

#[test]
fn unfinished_records_say_nothing() {
    for state in [layout::WRITING, 2, u64::MAX] {
        let mut words = DENIED;
        words[0].1 = state;
        assert_eq!(read(&page_of(&words), &profiles::smmu()), None);
        assert_eq!(read(&page_of(&[(layout::PANIC_STATE, state)]), &profiles::smmu()), None);
    }
}

#[test]
fn denied_call_reads_with_name_and_rule() {
    let mut words = DENIED.to_vec();
    words[2].1 = crate::syscalls::number("mmap", Arch::host()).unwrap().into();
    words.extend([
        (layout::FATAL_ARGS + 2, 7),
        (layout::FATAL_ARGS + 3, 0x22),
        (layout::FATAL_THREAD, 3),
        (layout::FATAL_IP, 0x1234),
    ]);
    let death = read(&page_of(&words), &profiles::smmu()).unwrap();
    assert_eq!(
        death.to_string(),
        "`smmu` ended itself: system call mmap(addr=0, length=0, prot=PROT_READ|PROT_WRITE|PROT_EXEC, \
         flags=MAP_PRIVATE|MAP_ANONYMOUS, fd=0, offset=0) refused: prot = PROT_READ|PROT_WRITE|PROT_EXEC is not allowed: \
         memory is never made executable (profile `smmu`); thread 3, at 0x1234"
    );
}

#[test]
fn call_of_another_abi_is_not_given_a_name() {
    let mut words = DENIED;
    words[2].1 = 5;
    words[3].1 = 0x4000_0003;
    match read(&page_of(&words), &profiles::smmu()) {
        Some(Death::DeniedSyscall { name: None, rule, .. }) => {
            assert!(rule.contains("another ABI"), "{rule}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn senseless_records_say_nothing() {
    for (index, word) in [
        (layout::FATAL_KIND, 7),
        (layout::FATAL_NUMBER, 1 << 40),
        (layout::FATAL_ARCH, 1 << 40),
        (layout::FATAL_THREAD, u64::MAX),
    ] {
        let mut words = DENIED.to_vec();
        words.push((index, word));
        assert_eq!(read(&page_of(&words), &profiles::smmu()), None, "word {index}");
    }
    let fault = [(layout::FATAL_STATE, layout::COMPLETE), (layout::FATAL_KIND, layout::KIND_FAULT)];
    for signal in [0, 65, u64::from(u32::MAX)] {
        let mut words = fault.to_vec();
        words.push((layout::FATAL_NUMBER, signal));
        assert_eq!(read(&page_of(&words), &profiles::smmu()), None, "signal {signal}");
    }
}

#[test]
fn every_page_of_noise_reads_without_harm() {
    // A fixed generator: the pages are the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200 {
        let mut words: Vec<(usize, u64)> = (0..PAGE_WORDS).map(|index| (index, next())).collect();
        words[layout::FATAL_STATE].1 = if next() % 2 == 0 { layout::COMPLETE } else { 0 };
        words[layout::PANIC_STATE].1 = layout::COMPLETE;
        words[layout::FATAL_KIND].1 = next() % 3;
        let text = read(&page_of(&words), &profiles::coordinator()).map(|death| death.to_string());
        assert!(text.is_none_or(|text| text.len() < 8192 && !text.contains(char::is_control)));
    }
}

#[test]
fn panic_text_is_bounded_and_printable() {
    let mut words: Vec<(usize, u64)> =
        (layout::PANIC_TEXT..PAGE_WORDS).map(|index| (index, u64::from_le_bytes(*b"\x1b[31mab\n"))).collect();
    words.extend([(layout::PANIC_STATE, layout::COMPLETE), (layout::PANIC_LEN, u64::MAX)]);
    let Some(Death::Panic { message, .. }) = read(&page_of(&words), &profiles::smmu()) else {
        panic!("no panic")
    };
    assert_eq!(message.chars().count(), layout::PANIC_LEN_MAX);
    assert!(!message.contains(char::is_control) && message.contains("[31mab⏎"), "{message}");
}

#[test]
fn hostile_characters_are_replaced() {
    assert_eq!(printable("a\u{202e}b\u{200d}c\r\n".as_bytes()), "a\u{fffd}b\u{fffd}c\u{fffd}⏎");
    assert_eq!(printable(b"\xff\x00ok"), "\u{fffd}\u{fffd}ok");
}
