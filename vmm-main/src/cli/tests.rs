// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line as a user types it: every key has its flag, flags win, and nonsense is refused by clap's rules.

use clap::CommandFactory;
use ipc::protocol::smmu::Granules;

use super::*;
use crate::config::file::{KEYS, SMMU_KEYS, TLS_KEYS};

fn config(words: &[&str]) -> Result<crate::config::VmConfig, String> {
    let words = ["bulkhead", "run"].iter().chain(words);
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        CliCommand::Run(flags) => flags.resolve().map_err(|problem| problem.to_string()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn cli_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn cli_has_a_flag_for_every_key_of_the_file() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let longs: Vec<&str> = run.get_arguments().filter_map(|arg| arg.get_long()).collect();
    for key in KEYS.iter().filter(|key| !["smmu", "device", "tls"].contains(key)) {
        assert!(longs.contains(key), "--{key}");
    }
    for key in SMMU_KEYS {
        assert!(longs.contains(&format!("smmu-{key}").as_str()), "--smmu-{key}");
    }
    for name in ["receive", "migrate"] {
        let command = command.find_subcommand(name).unwrap();
        for key in TLS_KEYS {
            let flag = format!("tls-{key}");
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(&flag)), "{name} --{flag}");
        }
    }
}

#[test]
fn cli_flags_reach_the_configuration() {
    let config = config(&[
        "--kernel",
        "Image",
        "--memory",
        "1G",
        "--name",
        "n1",
        "--console",
        "none",
        "--json-log",
        "--smmu-granules",
        "4K,64K",
        "--smmu-ril",
        "false",
        "--cmdline",
        "-x",
    ])
    .unwrap();
    assert_eq!((config.memory_len, config.name.as_str(), config.json_log), (1 << 30, "n1", true));
    assert!(
        config.smmu.options().granules == Granules { gran16k: false, ..Granules::ALL }
            && !config.smmu.options().ril
    );
    assert_eq!(config.cmdline, "-x");
}

#[test]
fn cli_flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.toml");
    std::fs::write(&file, "kernel = \"Image\"\nmemory = \"1G\"\nname = \"of-file\"").unwrap();
    let config = config(&["--config", file.to_str().unwrap(), "--memory", "64M"]).unwrap();
    assert_eq!((config.memory_len, config.name.as_str()), (64 << 20, "of-file"));
    assert_eq!(config.kernel, folder.path().join("Image"));
}

#[test]
fn cli_bad_words_are_refused() {
    for words in [
        &["--memory", "lots"][..],
        &["--memory", "-1"],
        &["--vcpus", "x"],
        &["--console", "vga"],
        &["--kernle", "x"],
        &["--memory", "0", "--kernel", "x"],
        &["--memory", "1", "--kernel", "x"],
        &["--vcpus", "65", "--kernel", "x"],
        &["--vcpus", "9", "--cpu", "soft", "--kernel", "x"],
        &["--cpu", "hard", "--kernel", "x"],
        &[],
    ] {
        assert!(config(words).is_err(), "{words:?}");
    }
}

#[test]
fn unit_of_the_service_manager_starts_a_vm_as_the_command_line_has_it() {
    let unit = include_str!("../../systemd/bulkhead@.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap().replace("%i", "web");
    let Ok(Cli { command: CliCommand::Run(flags) }) = Cli::try_parse_from(start.split_whitespace()) else {
        panic!("{start}")
    };
    assert_eq!(flags.place(), Place::Here, "the service manager follows the process that it starts");
}
