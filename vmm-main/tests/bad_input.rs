// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Wrong kernels, initramfses, sizes and configurations, given to the real programs: each is refused with a clear
//! line and its exit code, and nothing is left: no process, socket, memory object or mount.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::process::Output;

use support::{Lab, guest};

/// Runs the VM and checks that it was refused with `code` and a single line that contains `text`.
fn refused(lab: &Lab, words: &[&str], code: i32, text: &str) {
    let name = lab.vm_name();
    let all: Vec<&str> = ["run", "--name", &name, "--console", "none"].iter().chain(words).copied().collect();
    let output: Output = lab.bulkhead(&all);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
    let complaint = stderr.lines().last().unwrap_or_default();
    assert!(complaint.contains(text), "{words:?}: {complaint:?} says nothing of {text:?}");
    let told = stderr.lines().filter(|line| line.contains(text)).count();
    assert_eq!(told, 1, "{words:?}: told more than once: {stderr}");
    assert!(!stderr.contains("panicked"), "{words:?}: {stderr}");
    assert_eq!(lab.left_behind(), Vec::<String>::new(), "{words:?}");
}

#[test]
fn bad_kernels_are_refused_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let good = guest::spins();
    let kernel = |name: &str, bytes: &[u8]| lab.file(name, bytes).to_str().unwrap().to_owned();
    let garbage: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    refused(&lab, &["--kernel", &kernel("garbage", &garbage)], 2, "first bytes are [00, ");
    refused(&lab, &["--kernel", &kernel("empty", b"")], 2, "only 0 bytes");
    refused(&lab, &["--kernel", &kernel("cut", &good[..63])], 2, "only 63 bytes");
    refused(&lab, &["--kernel", &kernel("gzip", &[&[0x1f, 0x8b, 8][..], &[0; 100]].concat())], 2, "gzip");
    let mut big_endian = good.clone();
    big_endian[24] = 1;
    refused(&lab, &["--kernel", &kernel("be", &big_endian)], 2, "big-endian");
    let mut offset = good.clone();
    offset[8] = 1;
    refused(&lab, &["--kernel", &kernel("offset", &offset)], 2, "text_offset");
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&lab, &["--kernel", &kernel("huge", &huge)], 2, "memory have room for 512 MiB");
    let long = lab.file("long", &good);
    std::fs::OpenOptions::new().write(true).open(&long).unwrap().set_len(64 << 20).unwrap();
    refused(&lab, &["--kernel", long.to_str().unwrap(), "--memory", "32M"], 2, "does not fit");
    refused(&lab, &["--kernel", lab.path("run").to_str().unwrap()], 2, "is a directory");
    refused(&lab, &["--kernel", "/nonexistent"], 2, "cannot be opened");
    refused(&lab, &["--kernel", "/dev/zero"], 2, "not a regular file");
    refused(&lab, &[], 2, "no kernel");
}

#[test]
fn bad_initramfs_and_memory_are_refused_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let kernel = kernel.to_str().unwrap();
    let empty = lab.file("empty", b"");
    refused(&lab, &["--kernel", kernel, "--initramfs", empty.to_str().unwrap()], 2, "initramfs is empty");
    refused(&lab, &["--kernel", kernel, "--initramfs", "/nonexistent"], 2, "initramfs cannot be opened");
    let large = lab.file("large", b"x");
    std::fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(15 << 20).unwrap();
    let large = large.to_str().unwrap();
    refused(
        &lab,
        &["--kernel", kernel, "--initramfs", large, "--memory", "16M"],
        2,
        "room for 12 MiB behind the kernel",
    );
    refused(
        &lab,
        &["--kernel", kernel, "--initramfs", large, "--memory", "12K"],
        2,
        "no arm64 kernel starts in",
    );
    refused(&lab, &["--kernel", kernel, "--memory", "0"], 2, "0 bytes of memory (memory): give at least 16M");
    refused(&lab, &["--kernel", kernel, "--memory", "1"], 2, "give at least 16M");
    refused(&lab, &["--kernel", kernel, "--memory", "16777217"], 2, "not whole pages");
    refused(&lab, &["--kernel", kernel, "--memory", "18446744073709551615"], 2, "give at most 511G");
    refused(&lab, &["--kernel", kernel, "--memory", "500G"], 2, "more than this host has");
    refused(&lab, &["--kernel", kernel, "--memory", "9999999T"], 2, "do not fit the machine");
    refused(
        &lab,
        &["--kernel", kernel, "--vcpus", "9", "--cpu", "soft"],
        2,
        "too many where CPUs are software",
    );
    refused(&lab, &["--kernel", kernel, "--vcpus", "65"], 2, "more than the machine has room for");
    if std::env::consts::ARCH != "aarch64" {
        refused(&lab, &["--kernel", kernel, "--cpu", "kvm"], 2, "cannot run on this host's KVM: the host is");
    }
    let long = "x".repeat(5000);
    refused(&lab, &["--kernel", kernel, "--cmdline", &long], 2, "2047");
}

#[test]
fn bad_images_are_refused_by_name_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let kernel = kernel.to_str().unwrap();
    let sized = |name: &str, len: u64| {
        std::fs::File::create(lab.path(name)).unwrap().set_len(len).unwrap();
        lab.path(name).to_str().unwrap().to_owned()
    };
    let fifo = lab.path("fifo.img");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let device = |nvme: &str, text: &str| {
        refused(&lab, &["--kernel", kernel, "--nvme", nvme], 2, text);
        refused(&lab, &["--kernel", kernel, "--nvme", nvme], 2, &format!("({nvme})"));
    };
    device(&sized("empty.img", 0), "is empty");
    device(&sized("odd.img", 1_000_001), "976.5 KiB (1000001 bytes)");
    device(fifo.to_str().unwrap(), "is a FIFO");
    device(lab.path("run").to_str().unwrap(), "is a directory");
    device("/dev/null", "is a character device");
    device("/nonexistent", "No such file");
    let taken = sized("taken.img", 1 << 20);
    let lock = std::fs::File::open(&taken).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    device(&taken, &format!("in use by process {} (", std::process::id()));
    let twice = sized("twice.img", 1 << 20);
    refused(
        &lab,
        &["--kernel", kernel, "--nvme", &twice, "--nvme", &twice],
        2,
        "this VM itself, which is given it twice",
    );
}

#[test]
fn file_names_of_any_bytes_are_printed_escaped() {
    let Some(lab) = Lab::new() else { return };
    let name = "Im\nbulkhead: fine\u{1b}[2J";
    let text = "Im\\nbulkhead: fine\\u{1b}[2J)";
    refused(&lab, &["--kernel", lab.path(name).to_str().unwrap()], 2, text);
    let config = lab.file(name, b"kernle = 1");
    refused(&lab, &["--config", config.to_str().unwrap()], 2, "fine\\u{1b}[2J, line 1)");
}

#[test]
fn failures_are_lines_of_a_log_that_is_json() {
    let Some(lab) = Lab::new() else { return };
    let garbage = lab.file("garbage", &[7; 4096]);
    let garbage = garbage.to_str().unwrap();
    let file = lab.file("vm.toml", b"kernel = \"garbage\"\njson-log = true");
    let file = file.to_str().unwrap();
    // Before anything runs, from the sealed coordinator, and as a configuration file wants it.
    for (words, place) in [
        (&["--json-log", "--kernel", "/nonexistent"][..], "/nonexistent"),
        (&["--json-log", "--kernel", garbage], garbage),
        (&["--config", file], garbage),
        (&["--json-log", "--config", "/nonexistent"], "/nonexistent"),
    ] {
        let output = lab.bulkhead(&[&["run", "--console", "none"], words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<serde_json::Value> =
            stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let errors: Vec<_> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
        assert_eq!(errors.len(), 1, "{words:?}: {stderr}");
        assert_eq!((&errors[0]["where"], &errors[0]["class"]), (&place.into(), &"usage".into()), "{stderr}");
    }
}

#[test]
fn too_few_descriptors_are_told_as_that_whatever_was_opened() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let (name, mut refusals) = (lab.vm_name(), 0);
    // Few enough to fail at the first file, and then at each one after it.
    for limit in 3..40 {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let program = lab.path("bulkhead");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, program.to_str().unwrap()]);
        command.args(["run", "--console", "none", "--name", &name, "--memory", "16M"]);
        command.arg("--kernel").arg(&kernel).env("XDG_RUNTIME_DIR", lab.path("run"));
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while std::io::BufRead::read_line(&mut stderr, &mut line).unwrap() > 0 && !line.contains("guest runs")
        {
            all.push_str(&std::mem::take(&mut line));
        }
        if line.contains("guest runs") {
            child.kill().unwrap();
            child.wait().unwrap();
            break;
        }
        assert_eq!(child.wait().unwrap().code(), Some(1), "{limit}: {all}");
        let complaint = all.lines().last().unwrap_or_default();
        assert!(complaint.contains("descriptors"), "with {limit} descriptors: {complaint}");
        refusals += 1;
    }
    assert!(refusals > 3, "the limit was never in the way");
}

#[test]
fn bad_configurations_are_refused_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    for (text, complaint) in [
        (&b"kernle = \"x\""[..], "did you mean `kernel`?"),
        (b"kernel = ", "not valid TOML"),
        (b"[[[[", "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"memory = true", "where a whole number belongs"),
    ] {
        let file = lab.file("vm.toml", text);
        refused(&lab, &["--config", file.to_str().unwrap()], 2, complaint);
    }
    let deep = lab
        .file("deep.toml", "x = ".bytes().chain("[".repeat(50_000).bytes()).collect::<Vec<_>>().as_slice());
    refused(&lab, &["--config", deep.to_str().unwrap()], 2, "not valid TOML");
}

#[test]
fn bad_programs_beside_bulkhead_are_refused_and_leave_nothing() {
    let Some(lab) = Lab::new() else { return };
    let kernel = lab.file("Image", &guest::spins());
    let kernel = kernel.to_str().unwrap();
    let smmu = lab.path("bulkhead-smmu");
    std::fs::remove_file(&smmu).unwrap();
    refused(&lab, &["--kernel", kernel], 1, "bulkhead-smmu");
    std::fs::write(&smmu, "#!/bin/sh\n").unwrap();
    refused(&lab, &["--kernel", kernel], 1, "not an executable file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&smmu, mode).unwrap();
    refused(&lab, &["--kernel", kernel], 1, "smmu0 cannot be started");
}
