// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Good and bad configurations: each refusal is tested for what it names, not only for being one.

use std::path::Path;

use ipc::protocol::smmu::{Granules, Options};

use super::*;

fn refused(text: &str) -> Problem {
    match file::parse(text, "vm.toml").and_then(Settings::resolve) {
        Err(problem) => problem,
        Ok(config) => panic!("accepted {text:?} as {config:?}"),
    }
}

#[test]
fn config_with_every_key_resolves_to_what_it_says() {
    let text = r#"
name = "web-1"
kernel = "Image"
initramfs = "initrd"
cmdline = "console=ttyS0 quiet"
memory = "2G"
vcpus = 1
console = "none"
json-log = true
on-reset = "exit"
hang-deadline = 30
[smmu]
sidsize = 16
ssidsize = 0
oas = 44
granules = ["4k", "64K"]
ril = false
stream-table-levels = 2
restart = "never"
restarts-per-minute = 7
"#;
    let config = file::parse(text, "vm.toml").and_then(Settings::resolve).unwrap();
    assert_eq!(config.name, "web-1");
    assert_eq!(config.initramfs.as_deref(), Some(Path::new("initrd")));
    assert_eq!((config.memory_len, config.console, config.json_log), (2 << 30, ConsoleMode::None, true));
    assert_eq!(config.on_reset, OnReset::Exit);
    assert_eq!((config.smmu_restart, config.smmu_restarts), (RestartPolicy::Never, 7));
    assert_eq!(config.hang_deadline, 30);
    assert_eq!(
        *config.smmu.options(),
        Options {
            sidsize: 16,
            ssidsize: 0,
            oas: 44,
            granules: Granules { gran16k: false, ..Granules::ALL },
            ril: false,
            stream_table_levels: 2,
        }
    );
}

#[test]
fn config_flags_override_file_and_leave_the_rest() {
    let below = file::parse("kernel = \"a\"\nmemory = \"1G\"\n[smmu]\noas = 40\nril = false", "f").unwrap();
    let flags = Settings {
        memory_len: Some(256 << 20),
        smmu: SmmuSettings { oas: Some(48), ..SmmuSettings::default() },
        ..Settings::default()
    };
    let config = flags.over(below).resolve().unwrap();
    assert_eq!((config.memory_len, config.smmu.oas()), (256 << 20, 48));
    assert!(!config.smmu.options().ril);
    assert_eq!((config.smmu_restart, config.smmu_restarts), (RestartPolicy::Always, 5));
    assert_eq!(config.hang_deadline, 10);
    assert_eq!(config.kernel, Path::new("a"));
}

#[test]
fn config_unknown_key_names_nearest_and_line() {
    let problem = refused("kernel = \"a\"\n\nmemroy = \"1G\"");
    assert_eq!(problem.what, "unknown key `memroy` in the top level");
    assert_eq!(
        (problem.place.as_str(), problem.advice.as_str()),
        ("vm.toml, line 3", "did you mean `memory`?")
    );
    let problem = refused("kernel = \"a\"\n[smmu]\nssid-size = 1");
    assert_eq!(
        (problem.place.as_str(), problem.advice.as_str()),
        ("vm.toml, line 3", "did you mean `ssidsize`?")
    );
    assert_eq!(refused("oas = 40").advice, "move it to [smmu], where it belongs");
    assert_eq!(refused("[smmu]\nmemory = \"1G\"").advice, "move it to the top level, where it belongs");
    assert!(refused("zzzz = 1").advice.starts_with("the keys here are name, kernel"));
    assert_eq!(refused("[smmuu]\nril = true").advice, "did you mean `smmu`?");
}

#[test]
fn config_wrong_types_and_syntax_name_their_line() {
    for (text, place) in [
        ("kernel = 5", "vm.toml, line 1"),
        ("kernel = \"a\"\nvcpus = \"one\"", "vm.toml, line 2"),
        ("kernel = \"a\"\nsmmu = 3", "vm.toml, line 2"),
        ("kernel = \"a\"\nmemory = \"12 parsecs\"", "vm.toml, line 2"),
        ("kernel = \"a\"\nmemory = -1", "vm.toml, line 2"),
        ("kernel = \"a\"\nconsole = \"vga\"", "vm.toml, line 2"),
        ("kernel = \"a\"\non-reset = \"again\"", "vm.toml, line 2"),
        ("kernel = \"a\"\n[smmu]\nrestart = \"sometimes\"", "vm.toml, line 3"),
        ("kernel = \"a\"\n\n= 5", "vm.toml, line 3"),
        ("kernel = \"a\"\nkernel = \"b\"", "vm.toml, line 2"),
        ("kernel = \"a\nmemory = 1", "vm.toml, line 1"),
    ] {
        assert_eq!(refused(text).place, place, "{text:?}");
    }
}

#[test]
fn config_memory_rules_refuse_each_bad_size() {
    let refuse = |memory: &str| refused(&format!("kernel = \"a\"\nmemory = {memory}")).what;
    assert_eq!(refuse("0"), "no arm64 kernel starts in 0 bytes of memory");
    assert_eq!(refuse("1"), "no arm64 kernel starts in 1 byte of memory");
    assert_eq!(refuse("\"1M\""), "no arm64 kernel starts in 1M of memory");
    assert_eq!(refuse("16777217"), "16777217 bytes of memory are not whole pages");
    assert_eq!(refuse("\"3000G\""), "3000G of memory do not fit the machine's address map");
    assert!(check::memory_fits_host(1 << 60).unwrap_err().what.contains("more than this host has"));
    assert!(check::memory_fits_host(check::MEMORY_LEN_MIN).is_ok());
}

#[test]
fn config_values_of_another_type_are_told_how_to_write_them() {
    let advice = |text: &str| refused(text).advice;
    assert_eq!(advice("kernel = 5"), "put it in quotes");
    assert_eq!(advice("json-log = \"true\""), "write it without quotes");
    assert_eq!(advice("vcpus = \"2\""), "write it without quotes");
    assert_eq!(advice("vcpus = 1.5"), "write a whole number");
    assert_eq!(advice("[device]\nnvme = \"x\""), "write [[device]], in two brackets");
    assert!(advice("device = \"x\"").contains("under [[device]]"));
    assert!(advice("[smmu]\ngranules = \"4K\"").contains("[\"4K\", \"64K\"]"));
    assert!(refused("[[device]]\nslot = 3").what.contains("does not say what is behind it"));
    assert!(refused("[[device]]\nnvme = \"x\"\nvfio = \"y\"").what.contains("more than once"));
}

#[test]
fn config_advice_about_memory_is_taken_when_followed() {
    let sizes =
        [0, 1, 512, 4095, 4097, (1 << 20) + 1, (16 << 20) + 1, (511 << 30) - 1, (511 << 30) + 4096, 1 << 63];
    for len in sizes.into_iter().chain((0..3).map(|below| u64::MAX - below)) {
        let problem = check::memory_len(len).unwrap_err();
        let advised: Vec<u64> = problem
            .advice
            .split([' ', ';', ','])
            .filter(|word| word.ends_with(['M', 'G']) && *word != format!("{len}M"))
            .map(|word| size::parse(word).unwrap())
            .collect();
        assert_eq!(advised.len(), 1, "{problem}");
        assert_eq!(check::memory_len(advised[0]), Ok(()), "{len:#x}: {problem}");
    }
    assert!(check::memory_len(512).unwrap_err().advice.contains("512M is MiB"));
}

#[test]
fn config_meminfo_total_is_read_and_garbage_is_not() {
    assert_eq!(check::mem_total_len("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16384));
    assert_eq!(check::mem_total_len("MemFree: 1 kB\n"), None);
    assert_eq!(check::mem_total_len("MemTotal: many kB\n"), None);
}

#[test]
fn config_names_follow_the_rule() {
    for good in ["a", "0", "web-1", &"x".repeat(32)] {
        assert!(check::name(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", "Web", "a/b", "..", "a b", "é", &"x".repeat(33)] {
        assert!(check::name(bad).is_err(), "{bad}");
    }
}

#[test]
fn config_other_rules_refuse_what_cannot_work() {
    assert!(refused("memory = \"1G\"").what.contains("no kernel"));
    assert!(
        refused("kernel = \"a\"\nvcpus = 9\ncpu = \"soft\"")
            .what
            .contains("9 virtual CPUs are too many where CPUs are software")
    );
    assert!(refused("kernel = \"a\"\nvcpus = 65").what.contains("more than the machine has room for"));
    assert!(refused("kernel = \"a\"\ncpu = \"hard\"").what.contains("\"hard\" is not a kind of CPU"));
    assert!(refused("kernel = \"a\"\nvcpus = 0").what.contains("needs a virtual CPU"));
    assert!(refused("kernel = \"a\"\ncmdline = \"a\\u0000b\"").what.contains("control character"));
    let long = "x".repeat(check::CMDLINE_LEN_MAX + 1);
    assert!(refused(&format!("kernel = \"a\"\ncmdline = \"{long}\"")).what.contains("2048 bytes"));
    for (key, value) in [
        ("oas", "41"),
        ("ssidsize", "21"),
        ("sidsize", "8"),
        ("stream-table-levels", "3"),
        // Linear tables would not reach all of the StreamIDs.
        ("stream-table-levels", "1"),
        ("granules", "[]"),
        ("granules", "[\"8K\"]"),
    ] {
        let problem = refused(&format!("kernel = \"a\"\n[smmu]\n{key} = {value}"));
        assert_eq!(problem.place, format!("smmu.{key}"));
    }
}

#[test]
fn config_file_that_is_not_one_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.toml");
    assert!(file::load(&path).unwrap_err().what.contains("cannot be read"));
    assert!(file::load(folder.path()).unwrap_err().what.contains("not a regular file"));
    std::fs::write(&path, [b'a', 0xff, 0xfe]).unwrap();
    assert!(file::load(&path).unwrap_err().what.contains("not UTF-8 text at byte 0x1"));
    std::fs::write(&path, vec![b'#'; 70_000]).unwrap();
    assert!(file::load(&path).unwrap_err().what.contains("longer than"));
    std::fs::write(&path, "kernel = \"boot/Image\"").unwrap();
    assert_eq!(file::load(&path).unwrap().kernel, Some(folder.path().join("boot/Image")));
}

#[test]
fn config_boot_files_of_the_wrong_kind_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Image");
    let memory = 64 << 20;
    assert!(check::open_kernel(&path, memory).unwrap_err().what.contains("cannot be opened"));
    assert_eq!(check::open_kernel(folder.path(), memory).unwrap_err().what, "the kernel is a directory");
    assert_eq!(
        check::open_initramfs(Path::new("/dev/null"), memory).unwrap_err().what,
        "the initramfs is not a regular file"
    );
    let file = std::fs::File::create(&path).unwrap();
    assert!(check::open_kernel(&path, memory).unwrap_err().what.contains("only 0 bytes"));
    assert!(check::open_initramfs(&path, memory).unwrap_err().what.contains("is empty"));
    file.set_len(memory + 1).unwrap();
    assert!(check::open_kernel(&path, memory).unwrap_err().what.contains("does not fit"));
    assert!(check::open_initramfs(&path, memory).unwrap_err().what.contains("does not fit"));
    file.set_len(4096).unwrap();
    assert!(check::open_kernel(&path, memory).is_ok());
}

#[test]
fn config_disks_are_read_only_and_named_where_the_file_says_so() {
    let disks = |text: &str| {
        let settings = file::parse(text, "vm.toml").unwrap();
        settings.devices.into_iter().map(|device| device.behind).collect::<Vec<_>>()
    };
    let plain = Disk::from(std::path::PathBuf::from("a.img"));
    assert_eq!(disks("[[device]]\nnvme = \"a.img\""), [Behind::Nvme(plain.clone())]);
    // Whatever the order of the keys.
    let named = Disk { readonly: true, serial: Some("S1".to_owned()), ..plain };
    let text = "[[device]]\nreadonly = true\nserial = \"S1\"\nnvme = \"a.img\"";
    assert_eq!(disks(text), [Behind::Nvme(named)]);
    for key in ["readonly = true", "readonly = false", "serial = \"S1\""] {
        let text = format!("[[device]]\nvfio-user = \"a.sock\"\n{key}");
        let problem = file::parse(&text, "vm.toml").unwrap_err();
        assert!(problem.what.contains("only an `nvme` device"), "{problem}");
        assert_eq!(problem.place, "vm.toml, line 3");
    }
    let wrong = file::parse("[[device]]\nnvme = \"a.img\"\nreadonly = \"yes\"", "vm.toml");
    assert!(wrong.unwrap_err().place.contains("line 3"));
}

#[test]
fn config_limits_of_restarts_that_are_none_are_refused() {
    for count in [0, 1001, u64::MAX] {
        let settings = Settings { smmu_restarts: Some(count), ..Settings::default() };
        let problem = Settings { kernel: Some("a".into()), ..settings }.resolve().unwrap_err();
        assert_eq!(problem.place, "smmu.restarts-per-minute", "{problem}");
    }
}

#[test]
fn config_hang_deadline_that_a_busy_host_would_miss_is_refused_and_none_is_none() {
    let resolved = |seconds| {
        let settings = Settings { hang_deadline: Some(seconds), ..Settings::default() };
        Settings { kernel: Some("a".into()), ..settings }.resolve()
    };
    for seconds in [0, 2, 3600] {
        assert_eq!(u64::from(resolved(seconds).unwrap().hang_deadline), seconds);
    }
    for seconds in [1, 3601, u64::MAX] {
        let problem = resolved(seconds).unwrap_err();
        assert_eq!(problem.place, "hang-deadline", "{problem}");
    }
}
