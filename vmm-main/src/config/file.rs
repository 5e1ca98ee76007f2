// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The TOML configuration file: read from the parsed tree without serde, so that every error names its line and, for
//! an unknown key, the nearest known one.
//!
//! Called by the launcher only, before anything is started. Paths in the file are relative to the file.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::STDERR_NAME;
use super::tls::TlsSettings;
use super::{Behind, DeviceSettings, Disk, Restarts, Settings, size};
use crate::launcher::ids;
use crate::printable;
use crate::problem::Problem;
use crate::system::{CpuKind, SMMU0};

/// A configuration is a page of text; a larger file is something else given by mistake.
pub const FILE_LEN_MAX: u64 = 64 * 1024;

/// Keys of the top level.
pub const KEYS: [&str; 20] = [
    "name",
    "kernel",
    "initramfs",
    "cmdline",
    "memory",
    "vcpus",
    "cpu",
    "pmu",
    "console",
    "console-file",
    "log-file",
    "json-log",
    "on-reset",
    "ids",
    "cgroup",
    "cpu-weight",
    "hang-deadline",
    "smmu",
    "device",
    "tls",
];
/// Keys of `[smmu]`.
pub const SMMU_KEYS: [&str; 8] = [
    "sidsize",
    "ssidsize",
    "oas",
    "granules",
    "ril",
    "stream-table-levels",
    "restart",
    "restarts-per-minute",
];

/// Keys of `[tls]`.
pub const TLS_KEYS: [&str; 4] = ["ca", "cert", "key", "peer"];

/// Keys of a `[[device]]`.
const DEVICE_KEYS: [&str; 11] = [
    "vfio-user",
    "nvme",
    "vfio",
    "behind",
    "slot",
    "direct-dma",
    "required",
    "readonly",
    "serial",
    "restart",
    "restarts-per-minute",
];

/// Reads and parses the configuration at `path`.
pub fn load(path: &Path) -> Result<Settings, Problem> {
    let place = printable::path(path);
    let advice = "give --config a readable TOML file";
    let refused = |error: std::io::Error| {
        let what = format!("the configuration cannot be read: {error}");
        Problem::usage(what, place.clone(), advice).because_of(&error)
    };
    let file = File::open(path).map_err(refused)?;
    if !file.metadata().map_err(refused)?.is_file() {
        return Err(Problem::usage("the configuration is not a regular file", place, advice));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_LEN_MAX) {
        return Err(Problem::usage(
            format!("the configuration is longer than {FILE_LEN_MAX} bytes"),
            place,
            "check that this is the file you meant",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Problem::usage(
            format!("the configuration is not UTF-8 text at byte {offset:#x}"),
            place.clone(),
            "check that this is the file you meant",
        )
    })?;
    let mut settings = parse(&text, &place)?;
    let base = path.parent().unwrap_or(Path::new(""));
    settings.kernel = settings.kernel.map(|kernel| base.join(kernel));
    settings.initramfs = settings.initramfs.map(|initramfs| base.join(initramfs));
    settings.console_file = settings.console_file.map(|file| base.join(file));
    let is_path = |file: &Path| file.as_os_str() != STDERR_NAME;
    settings.log_file = settings.log_file.map(|file| if is_path(&file) { base.join(file) } else { file });
    settings.tls = settings.tls.relative_to(base);
    for device in &mut settings.devices {
        if let Some(path) = device.behind.path_mut() {
            *path = base.join(&*path);
        }
    }
    Ok(settings)
}

/// Parses `text`; `place` is the file's name in errors.
pub fn parse(text: &str, place: &str) -> Result<Settings, Problem> {
    let source = Source { text, place };
    let root = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Problem::usage(
            format!("the configuration is not valid TOML: {}", error.message()),
            source.at(&span),
            "correct the line",
        )
    })?;
    let mut settings = Settings::default();
    for (key, value) in root.get_ref() {
        match key.get_ref().as_ref() {
            "name" => settings.name = Some(source.string(value)?),
            "kernel" => settings.kernel = Some(PathBuf::from(source.string(value)?)),
            "initramfs" => settings.initramfs = Some(PathBuf::from(source.string(value)?)),
            "cmdline" => settings.cmdline = Some(source.string(value)?),
            "memory" => settings.memory_len = Some(source.size(value)?),
            "vcpus" => settings.vcpu_count = Some(source.integer(value)?),
            "cpu" => settings.cpu = Some(source.cpu(value)?),
            "pmu" => settings.pmu = Some(source.boolean(value)?),
            "console" => settings.console = Some(source.choice(value, "is not a kind of console")?),
            "console-file" => settings.console_file = Some(PathBuf::from(source.string(value)?)),
            "log-file" => settings.log_file = Some(PathBuf::from(source.string(value)?)),
            "ids" => {
                let text = source.string(value)?;
                let ids = ids::parse(&text).map_err(|what| {
                    Problem::usage(what, source.at(&value.span()), "see `bulkhead run --help`")
                })?;
                settings.ids = Some(ids);
            }
            "cgroup" => settings.cgroup = Some(PathBuf::from(source.string(value)?)),
            "cpu-weight" => settings.cpu_weight = Some(source.integer(value)?),
            "hang-deadline" => settings.hang_deadline = Some(source.integer(value)?),
            "json-log" => settings.json_log = Some(source.boolean(value)?),
            "on-reset" => settings.on_reset = Some(source.choice(value, "is nothing that a reset can do")?),
            "smmu" => smmu(&source, value, &mut settings)?,
            "device" => settings.devices = devices(&source, value)?,
            "tls" => settings.tls = tls(&source, value)?,
            unknown => return Err(source.unknown_key(unknown, key.span(), &KEYS, "the top level")),
        }
    }
    Ok(settings)
}

fn smmu(source: &Source<'_>, value: &Spanned<DeValue<'_>>, settings: &mut Settings) -> Result<(), Problem> {
    let table = value.get_ref().as_table().ok_or_else(|| source.wrong_type(value, "a table, [smmu]"))?;
    let smmu = &mut settings.smmu;
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "ssidsize" => smmu.ssidsize = Some(source.integer(value)?),
            "oas" => smmu.oas = Some(source.integer(value)?),
            "granules" => smmu.granules = Some(source.strings(value)?),
            "ril" => smmu.ril = Some(source.boolean(value)?),
            "stream-table-levels" => smmu.stream_table_levels = Some(source.integer(value)?),
            "sidsize" => smmu.sidsize = Some(source.integer(value)?),
            "restart" => settings.smmu_restart = Some(source.choice(value, RESTART_MISFIT)?),
            "restarts-per-minute" => settings.smmu_restarts = Some(source.integer(value)?),
            unknown => return Err(source.unknown_key(unknown, key.span(), &SMMU_KEYS, "[smmu]")),
        }
    }
    Ok(())
}

fn tls(source: &Source<'_>, value: &Spanned<DeValue<'_>>) -> Result<TlsSettings, Problem> {
    let table = value.get_ref().as_table().ok_or_else(|| source.wrong_type(value, "a table, [tls]"))?;
    let mut tls = TlsSettings::default();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "ca" => tls.ca = Some(PathBuf::from(source.string(value)?)),
            "cert" => tls.cert = Some(PathBuf::from(source.string(value)?)),
            "key" => tls.key = Some(PathBuf::from(source.string(value)?)),
            "peer" => tls.peer = Some(source.string(value)?),
            unknown => return Err(source.unknown_key(unknown, key.span(), &TLS_KEYS, "[tls]")),
        }
    }
    Ok(tls)
}

fn devices(source: &Source<'_>, value: &Spanned<DeValue<'_>>) -> Result<Vec<DeviceSettings>, Problem> {
    let wrong = || source.wrong_type(value, DEVICE_TABLES);
    value.get_ref().as_array().ok_or_else(wrong)?.iter().map(|item| device(source, item)).collect()
}

fn device(source: &Source<'_>, value: &Spanned<DeValue<'_>>) -> Result<DeviceSettings, Problem> {
    let table = value.get_ref().as_table().ok_or_else(|| source.wrong_type(value, "a table, [[device]]"))?;
    let mut found = Vec::new();
    let mut slot = None;
    let mut direct_dma = false;
    let mut required = None;
    let (mut readonly, mut serial) = (None, None);
    let mut restart = Restarts::default();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "vfio-user" => found.push(Behind::VfioUser(PathBuf::from(source.string(value)?))),
            "nvme" => found.push(Behind::Nvme(PathBuf::from(source.string(value)?).into())),
            "vfio" => found.push(Behind::Physical(source.string(value)?)),
            // Given or not: there is one vSMMU, and every device is behind it.
            "behind" if source.string(value)? == SMMU0.to_string() => {}
            "behind" => {
                return Err(Problem::usage(
                    "a device can only be behind the VM's one vSMMU",
                    source.at(&value.span()),
                    format!("give \"{SMMU0}\", or leave it out"),
                ));
            }
            "slot" => slot = Some(source.integer(value)?),
            "direct-dma" => direct_dma = source.boolean(value)?,
            "required" => required = Some(source.boolean(value)?),
            "readonly" => readonly = Some((source.boolean(value)?, value.span())),
            "serial" => serial = Some((source.string(value)?, value.span())),
            "restart" => restart.policy = Some(source.choice(value, RESTART_MISFIT)?),
            "restarts-per-minute" => restart.per_minute = Some(source.integer(value)?),
            unknown => return Err(source.unknown_key(unknown, key.span(), &DEVICE_KEYS, "[[device]]")),
        }
    }
    match <[Behind; 1]>::try_from(found) {
        Ok([Behind::Nvme(disk)]) => {
            let readonly = readonly.is_some_and(|(readonly, _)| readonly);
            let disk = Disk { readonly, serial: serial.map(|(serial, _)| serial), ..disk };
            Ok(DeviceSettings { behind: Behind::Nvme(disk), slot, direct_dma, required, restart })
        }
        Ok([behind]) => match readonly.map(|(_, span)| span).or(serial.map(|(_, span)| span)) {
            None => Ok(DeviceSettings { behind, slot, direct_dma, required, restart }),
            Some(span) => Err(Problem::usage(
                "only an `nvme` device has an image that could be read-only or have a serial number",
                source.at(&span),
                "leave `readonly` and `serial` out, and tell the device's own server",
            )),
        },
        Err(found) => Err(Problem::usage(
            if found.is_empty() {
                "this device does not say what is behind it"
            } else {
                "this device says more than once what is behind it"
            },
            source.at(&value.span()),
            "give exactly one of `vfio-user`, `nvme` and `vfio`",
        )),
    }
}

const RESTART_MISFIT: &str = "does not say when a process is to be started anew";
const STRING: &str = "a string";
const BOOLEAN: &str = "true or false";
const INTEGER: &str = "a whole number";
const STRINGS: &str = "a list of strings";
const DEVICE_TABLES: &str = "a list of tables, [[device]],";

/// The text being read and its name, for errors.
struct Source<'a> {
    text: &'a str,
    place: &'a str,
}

impl Source<'_> {
    fn at(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("{}, line {}", self.place, before.matches('\n').count() + 1)
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>, wanted: &str) -> Problem {
        Problem::usage(
            format!("found {} where {wanted} belongs", value.get_ref().type_str()),
            self.at(&value.span()),
            match (value.get_ref(), wanted) {
                (DeValue::Table(_), DEVICE_TABLES) => "write [[device]], in two brackets",
                (_, DEVICE_TABLES) => "write each device as a table of its own, under [[device]]",
                (_, STRINGS) => "write a list of strings, such as [\"4K\", \"64K\"]",
                (_, STRING) => "put it in quotes",
                (DeValue::String(_), BOOLEAN | INTEGER) => "write it without quotes",
                (_, BOOLEAN) => "write true or false",
                (_, INTEGER) => "write a whole number",
                (_, _) => "write its keys below its name in brackets",
            },
        )
    }

    fn unknown_key(&self, found: &str, span: Range<usize>, known: &[&str], table: &str) -> Problem {
        // A key that exists elsewhere is misplaced rather than misspelt.
        let elsewhere = if SMMU_KEYS.contains(&found) {
            Some("[smmu]")
        } else if DEVICE_KEYS.contains(&found) {
            Some("[[device]]")
        } else if KEYS.contains(&found) {
            Some("the top level")
        } else {
            None
        };
        let advice = match (elsewhere, nearest(found, known)) {
            (Some(home), _) => format!("move it to {home}, where it belongs"),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("the keys here are {}", known.join(", ")),
        };
        Problem::usage(format!("unknown key `{found}` in {table}"), self.at(&span), advice)
    }

    fn string(&self, value: &Spanned<DeValue<'_>>) -> Result<String, Problem> {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| self.wrong_type(value, STRING))
    }

    fn boolean(&self, value: &Spanned<DeValue<'_>>) -> Result<bool, Problem> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(value, BOOLEAN))
    }

    fn integer(&self, value: &Spanned<DeValue<'_>>) -> Result<u64, Problem> {
        let integer = value.get_ref().as_integer().ok_or_else(|| self.wrong_type(value, INTEGER))?;
        u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| {
            Problem::usage(
                format!("{} is negative or larger than any number here", integer.as_str()),
                self.at(&value.span()),
                "give a number from 0",
            )
        })
    }

    fn size(&self, value: &Spanned<DeValue<'_>>) -> Result<u64, Problem> {
        let Some(text) = value.get_ref().as_str() else {
            return self.integer(value).map_err(|problem| Problem {
                advice: "give a size such as \"512M\", or a number of bytes".to_owned(),
                ..problem
            });
        };
        size::parse(text).map_err(|error| {
            Problem::usage(
                error.to_string(),
                self.at(&value.span()),
                "give a size such as \"512M\" or \"1.5G\"",
            )
        })
    }

    /// One of the words that the flag of this key takes. `misfit` says what any other word is not.
    fn choice<T: ValueEnum>(&self, value: &Spanned<DeValue<'_>>, misfit: &str) -> Result<T, Problem> {
        let found = self.string(value)?;
        T::from_str(&found, false).map_err(|_| {
            let words = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let words: Vec<String> = words.map(|word| format!("{:?}", word.get_name())).collect();
            let words = match &words[..] {
                [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
                words => words.concat(),
            };
            Problem::usage(format!("{found:?} {misfit}"), self.at(&value.span()), format!("give {words}"))
        })
    }

    fn cpu(&self, value: &Spanned<DeValue<'_>>) -> Result<CpuKind, Problem> {
        self.choice(value, "is not a kind of CPU")
            .map_err(|problem| Problem { advice: format!("{}, or leave it out", problem.advice), ..problem })
    }

    fn strings(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Problem> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong_type(value, STRINGS))?;
        list.iter().map(|item| self.string(item)).collect()
    }
}

/// The known key that `found` was probably meant to be.
pub fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    // 0.7 lets through a swapped, missing or doubled letter in a short key, and not an unrelated word.
    const SIMILARITY_MIN: f64 = 0.7;
    known
        .iter()
        .map(|key| (strsim::jaro_winkler(&found.to_lowercase(), key), *key))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, key)| key)
}
