// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::io::Write;

use super::*;
use crate::unpack::samples;

const MIB: u64 = 1 << 20;
/// The same, as a length of things in our own memory.
const MIB_LEN: usize = 1 << 20;

fn memory(len: u64) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM_BASE), usize::try_from(len).unwrap())]).unwrap()
}

fn config(ram_len: u64) -> MachineConfig {
    MachineConfig {
        ram_len,
        vcpu_count: 1,
        cmdline: "quiet".into(),
        rng_seed: [1; 64],
        pmu: false,
        nested_slots: Vec::new(),
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn kernel(len: usize, image_size: u64) -> Vec<u8> {
    let mut bytes = vec![0xa5; len];
    bytes[..64].fill(0);
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[56..60].copy_from_slice(&0x644d_5241_u32.to_le_bytes());
    bytes
}

#[test]
fn load_places_kernel_tree_and_initramfs_in_order() {
    let memory = memory(64 * MIB);
    let kernel = kernel(3 * MIB_LEN, 5 * MIB);
    let boot = load(&memory, &file(&kernel), Some(&file(b"cpio!")), &config(64 * MIB)).unwrap();
    assert_eq!(boot, BootInfo { entry: RAM_BASE, fdt: RAM_BASE + 6 * MIB });
    let mut back = vec![0; kernel.len()];
    memory.read_slice(&mut back, GuestAddress(boot.entry)).unwrap();
    assert!(back == kernel, "the kernel's bytes changed on the way");
    let magic: u32 = memory.read_obj(GuestAddress(boot.fdt)).unwrap();
    assert_eq!(u32::from_be(magic), 0xd00d_feed);
    let mut initramfs = [0; 5];
    memory.read_slice(&mut initramfs, GuestAddress(RAM_BASE + 8 * MIB)).unwrap();
    assert_eq!(&initramfs, b"cpio!");
}

#[test]
fn load_kernel_larger_than_ram_says_how_much_is_needed() {
    let memory = memory(4 * MIB);
    let error = load(&memory, &file(&kernel(0x1000, 5 * MIB)), None, &config(4 * MIB)).unwrap_err();
    assert_eq!(error.to_string(), "the kernel takes 5 MiB, and the guest's 4M of memory have room for 4 MiB");
    assert_eq!(error.advice(), "give at least 5M of memory, or take a smaller kernel");
}

#[test]
fn load_image_size_of_the_whole_address_space_is_refused() {
    let memory = memory(4 * MIB);
    let error = load(&memory, &file(&kernel(0x1000, u64::MAX)), None, &config(4 * MIB)).unwrap_err();
    assert!(matches!(error, BootError::NoRoom { part: Part::File(BootFile::Kernel), .. }), "{error}");
    assert!(error.advice().contains("more than any guest can have"), "{}", error.advice());
}

#[test]
fn load_bad_files_name_the_file() {
    let memory = memory(16 * MIB);
    let config = config(16 * MIB);
    let fails = |kernel: &[u8], initramfs: Option<&[u8]>| {
        let initramfs = initramfs.map(file);
        load(&memory, &file(kernel), initramfs.as_ref(), &config).unwrap_err().to_string()
    };
    assert_eq!(fails(b"", None), "the kernel is empty");
    assert!(fails(b"short", None).contains("its first bytes are [73, 68, 6f, 72, 74]"));
    assert!(fails(&[0; 4096], None).contains("no arm64 Image"));
    assert!(fails(&kernel(0x1000, 0x1000)[..60], None).contains("less than the 64-byte header"));
    let kernel = kernel(0x1000, 0x1000);
    assert_eq!(fails(&kernel, Some(b"")), "the initramfs is empty");
}

#[test]
fn load_initramfs_without_room_says_how_much_there_is_and_what_is_enough() {
    let kernel = file(&kernel(0x1000, 0x1000));
    let initramfs = file(&vec![0; 13 * MIB_LEN]);
    let error = load(&memory(16 * MIB), &kernel, Some(&initramfs), &config(16 * MIB)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the initramfs takes 13 MiB, and the guest's 16M of memory have room for 12 MiB behind the kernel"
    );
    assert_eq!(error.advice(), "give at least 17M of memory, or take a smaller initramfs");
    assert_eq!(error.file(), Some(BootFile::Initramfs));
    assert!(load(&memory(17 * MIB), &kernel, Some(&initramfs), &config(17 * MIB)).is_ok());
}

#[test]
fn load_packed_kernel_is_the_same_as_the_plain_one() {
    let plain = kernel(3 * MIB_LEN + 5, 5 * MIB);
    for packed in
        [samples::gzip(&plain), samples::zstd(&plain), samples::zboot("gzip", &samples::gzip(&plain))]
    {
        let memory = memory(16 * MIB);
        let boot = load(&memory, &file(&packed), None, &config(16 * MIB)).unwrap();
        assert_eq!(boot, BootInfo { entry: RAM_BASE, fdt: RAM_BASE + 6 * MIB });
        let mut back = vec![0; plain.len()];
        memory.read_slice(&mut back, GuestAddress(boot.entry)).unwrap();
        assert!(back == plain, "the kernel's bytes changed on the way");
    }
}

#[test]
fn load_kernel_that_unpacks_to_more_than_ram_ends_there() {
    // 1000 to 1 is as far as deflate goes.
    let bomb = samples::gzip(&kernel(64 * MIB_LEN, 0x1000));
    assert!(bomb.len() < MIB_LEN);
    let error = load(&memory(16 * MIB), &file(&bomb), None, &config(16 * MIB)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel takes more than 16 MiB, and the guest's 16M of memory have room for 16 MiB"
    );
    assert!(error.advice().contains("more memory"));
}

#[test]
fn load_damaged_packed_kernel_is_told_as_that() {
    let plain = kernel(MIB_LEN, 0x1000);
    for (packed, method) in [(samples::gzip(&plain), "gzip"), (samples::zstd(&plain), "zstd")] {
        let fails = |bytes: &[u8]| {
            let loaded = load(&memory(16 * MIB), &file(bytes), None, &config(16 * MIB));
            loaded.err().map(|error| error.to_string())
        };
        // Without its end, and so without its checksum.
        let cut = fails(&packed[..packed.len() / 2]).unwrap();
        assert!(cut.contains("cannot be unpacked") && cut.contains(method), "{cut}");
        for at in (0..packed.len()).step_by(packed.len() / 97 + 1) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x10;
            // Some bytes of a header mean nothing; none may be taken for another kernel, or be a panic.
            let _ = fails(&damaged);
        }
        let mut damaged = packed.clone();
        let middle = packed.len() * 2 / 3;
        damaged[middle..middle + 8].fill(0x55);
        assert!(fails(&damaged).unwrap().contains("cannot be unpacked"), "{method}");
    }
}

#[test]
fn load_ram_outside_the_machines_limits_is_refused() {
    let memory = memory(MIB);
    for ram_len in [0, 1, 0x1001, RAM_LEN_MAX + 0x1000] {
        let error = load(&memory, &file(&kernel(64, 64)), None, &config(ram_len)).unwrap_err();
        assert!(matches!(error, BootError::Limits { .. }), "{ram_len:#x}: {error}");
    }
}

#[test]
fn load_command_line_beyond_the_tree_limit_is_refused() {
    let memory = memory(16 * MIB);
    let config = MachineConfig { cmdline: "x".repeat(3 * MIB_LEN), ..config(16 * MIB) };
    let error = load(&memory, &file(&kernel(64, 64)), None, &config).unwrap_err();
    assert!(matches!(error, BootError::FdtTooLong { .. }), "{error}");
}
