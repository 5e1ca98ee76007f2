// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use std::io::Write;

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
    let boot = load(&memory, &mut file(&kernel), Some(&mut file(b"cpio!")), &config(64 * MIB)).unwrap();
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
    let error = load(&memory, &mut file(&kernel(0x1000, 5 * MIB)), None, &config(4 * MIB)).unwrap_err();
    assert!(error.to_string().contains("kernel needs guest memory up to 5 MiB"), "{error}");
}

#[test]
fn load_image_size_of_the_whole_address_space_is_refused() {
    let memory = memory(4 * MIB);
    let error = load(&memory, &mut file(&kernel(0x1000, u64::MAX)), None, &config(4 * MIB)).unwrap_err();
    assert!(matches!(error, BootError::RamTooSmall { what: "kernel", .. }), "{error}");
}

#[test]
fn load_bad_files_name_the_file() {
    let memory = memory(16 * MIB);
    let config = config(16 * MIB);
    let fails = |kernel: &[u8], initramfs: Option<&[u8]>| {
        let mut initramfs = initramfs.map(file);
        load(&memory, &mut file(kernel), initramfs.as_mut(), &config).unwrap_err().to_string()
    };
    assert_eq!(fails(b"", None), "the kernel is empty");
    assert!(fails(b"short", None).contains("less than the 64-byte header"));
    assert!(fails(&[0; 4096], None).contains("no arm64 Image"));
    let kernel = kernel(0x1000, 0x1000);
    assert_eq!(fails(&kernel, Some(b"")), "the initramfs is empty");
    let large = vec![0; 13 * MIB_LEN];
    assert!(fails(&kernel, Some(&large)).contains("initramfs needs guest memory"));
}

#[test]
fn load_ram_outside_the_machines_limits_is_refused() {
    let memory = memory(MIB);
    for ram_len in [0, 1, 0x1001, RAM_LEN_MAX + 0x1000] {
        let error = load(&memory, &mut file(&kernel(64, 64)), None, &config(ram_len)).unwrap_err();
        assert!(matches!(error, BootError::Limits { .. }), "{ram_len:#x}: {error}");
    }
}

#[test]
fn load_command_line_beyond_the_tree_limit_is_refused() {
    let memory = memory(16 * MIB);
    let config = MachineConfig { cmdline: "x".repeat(3 * MIB_LEN), ..config(16 * MIB) };
    let error = load(&memory, &mut file(&kernel(64, 64)), None, &config).unwrap_err();
    assert!(matches!(error, BootError::FdtTooLong { .. }), "{error}");
}
