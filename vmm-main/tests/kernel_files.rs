// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernels as distributions ship them, started by the real programs: packed with gzip, zstd or in EFI zboot, at the
//! first boot and at every reset, where that does not end the VM; and the refusals of those that are not unpacked here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use support::{Lab, PATIENCE, finish, guest};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The header of Linux' zboot (drivers/firmware/efi/libstub/zboot-header.S), as far as anybody but firmware reads it.
fn zboot(packer: &str, packed: &[u8]) -> Vec<u8> {
    let mut program = b"MZ\0\0zimg".to_vec();
    for word in [0x400, packed.len(), 0, 0] {
        program.extend(u32::try_from(word).unwrap().to_le_bytes());
    }
    program.extend(packer.bytes());
    program.resize(0x400, 0);
    program.extend(packed);
    // What the header does not count, such as a signature.
    program.extend([0x5a; 1000]);
    program
}

#[test]
fn packed_kernels_start_as_the_plain_one_does_and_start_again() {
    let Some(lab) = Lab::new() else { return };
    let plain = guest::prints_and_resets();
    for (name, packed) in [
        ("Image.gz", gzip(&plain)),
        ("Image.zst", zstd(&plain)),
        ("vmlinuz.efi", zboot("gzip", &gzip(&plain))),
        ("vmlinuz", zboot("zstd22", &zstd(&plain))),
    ] {
        let kernel = lab.file(name, &packed);
        let mut vm = lab.start(&kernel, &[]);
        vm.await_running();
        assert_eq!(vm.output_of(2), b"RR", "{name}");
        assert!(lab.bulkhead(&["stop"]).status.success());
        assert_eq!(vm.end().0.code(), Some(0), "{name}");
    }
}

#[test]
fn stop_is_obeyed_while_a_kernel_is_being_unpacked() {
    let Some(lab) = Lab::new() else { return };
    // As large as an Image may be: seconds of unpacking, and no process is started before.
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&guest::spins()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..500).for_each(|_| packer.write_all(&zeros).unwrap());
    let kernel = lab.file("Image.gz", &packer.finish().unwrap());
    let words = [
        "run",
        "--console",
        "none",
        "--memory",
        "600M",
        "--log-file",
        "-",
        "--kernel",
        kernel.to_str().unwrap(),
    ];
    let run = lab.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        let output = lab.bulkhead(&["status", "--json"]);
        if output.status.success() {
            break serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        }
        assert!(begun.elapsed() < PATIENCE, "{output:?}");
    };
    assert_eq!(status["phase"], "created", "{status}");
    assert!(lab.bulkhead(&["stop"]).status.success());
    let ended = finish(run);
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{log}");
    assert!(
        log.contains("stopped on request") && !log.contains("sealed"),
        "the kernel was unpacked first: {log}"
    );
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn reset_ends_the_vm_where_the_configuration_says_so() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::prints_and_resets());
    let config = lab.file("vm.toml", b"on-reset = \"exit\"");
    let config = config.to_str().unwrap();
    for words in [&["--on-reset", "exit"][..], &["--config", config]] {
        let (status, output, log) = lab.start(&kernel, words).end();
        assert_eq!((status.code(), output), (Some(0), b"R".to_vec()), "{words:?}: {log}");
        assert!(log.contains("vm ended: the guest reset itself"), "{log}");
        assert_eq!(lab.left_behind(), Vec::<String>::new());
    }
    // A flag wins over the file.
    let mut vm = lab.start(&kernel, &["--config", config, "--on-reset", "reboot"]);
    assert_eq!(vm.output_of(2), b"RR");
    assert!(lab.bulkhead(&["stop"]).status.success());
    vm.await_log("vm ended: stopped on request");
}

#[test]
fn kernels_that_cannot_be_unpacked_name_the_file_and_the_way() {
    let Some(lab) = Lab::new() else { return };
    let refused = |name: &str, bytes: &[u8], texts: &[&str]| {
        let kernel = lab.file(name, bytes);
        let kernel = kernel.to_str().unwrap();
        let output = lab.bulkhead(&["run", "--console", "none", "--memory", "16M", "--kernel", kernel]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
        let line = stderr.lines().last().unwrap_or_default();
        for text in texts.iter().chain(&[kernel]) {
            assert!(line.contains(text), "{name}: {line:?} does not say {text:?}");
        }
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "{name}");
    };
    let plain = guest::spins();
    let mut noise = plain.clone();
    noise.extend((0..1_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()));
    let packed = gzip(&noise);
    refused(
        "xz",
        b"\xfd7zXZ\0 and so on, for more bytes than a header has, because of the shortest length",
        &["xz -dc"],
    );
    refused("zboot-xz", &zboot("xzkern", b"\xfd7zXZ\0"), &["EFI zboot", "tail -c +1025", "xz -dc"]);
    refused("cut", &packed[..packed.len() - 5], &["cannot be unpacked"]);
    let mut bomb = plain.clone();
    bomb.resize(64 << 20, 0);
    refused("bomb", &gzip(&bomb), &["more than 16 MiB", "more memory"]);
    refused("no-image", &gzip(&[7; 100_000]), &["no arm64 Image", "0x07070707"]);
}
