// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packages by apt, without root and without touching the machine's own package state.
//!
//! apt gets a private state, cache and configuration in our cache folder. Where packages come from, how to
//! get there (proxies) and whose signatures count is the machine's own choice: its sources are copied at run
//! time and its keys are used in place. apt itself verifies the signed index and each package's hash.

mod sources;

pub use self::sources::codename;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use ::tests::command::{capture, find, remove_folder, set_mode, write_whole};

/// Whose installed packages count when dependencies are resolved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// Nothing is installed: used for packages of another architecture that are unpacked one by one.
    Nothing,
    /// What this machine has, but for packages with one of these words in their names: its libraries serve the unpacked
    /// programs too, and what is a part of them comes along.
    But(&'static [&'static str]),
}

/// Which of the distribution's suites packages come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Suites {
    /// Those of the machine's own sources.
    AsHere,
    /// And the backports of the release that the machine runs, preferred.
    Backports,
    /// Only the newest stable release and what was ported back to it, preferred.
    Newest,
}

impl Suites {
    /// Suites that the machine's own sources need not have.
    fn added(self) -> Result<Vec<String>> {
        Ok(match self {
            Self::AsHere => Vec::new(),
            Self::Backports => vec![format!("{}-backports", sources::codename()?)],
            // Names that every mirror of Debian keeps up to date, whatever the releases are called.
            Self::Newest => vec!["stable".into(), "stable-backports".into()],
        })
    }
}

/// A private apt for one architecture.
pub struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

/// The version of a package that apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub package: String,
    pub version: String,
    /// Names of the packages it depends on, first alternatives only.
    pub depends: Vec<String>,
}

impl Apt {
    /// Sets up apt in `folder` for packages of `architecture` (Debian's name) and fetches the index.
    pub fn prepare(folder: &Path, architecture: &str, installed: Installed, suites: Suites) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
            find(program).with_context(|| format!("{program} is not on this machine"))?;
        }
        let apt = Self { folder: folder.to_path_buf(), config: folder.join("apt.conf") };
        remove_folder(&folder.join("sources"))?;
        for path in ["sources", "empty", "state/lists/partial", "cache/archives/partial", "packages"] {
            let path = folder.join(path);
            fs::create_dir_all(&path).with_context(|| format!("{} could not be made", path.display()))?;
        }
        let status = match installed {
            Installed::Nothing => String::new(),
            Installed::But(words) => without(
                &fs::read_to_string("/var/lib/dpkg/status").context("this machine's list of packages")?,
                words,
            ),
        };
        write_whole(&folder.join("state/status"), status.as_bytes())?;
        let added = suites.added()?;
        apt.copy_sources(suites != Suites::Newest, &added)?;
        let mut configuration = apt.configuration(architecture)?;
        if let Some(preferred) = added.last() {
            configuration.push_str(&format!("APT::Default-Release \"{preferred}\";\n"));
        }
        write_whole(&apt.config, configuration.as_bytes())?;
        // A proxy setting may hold a password.
        set_mode(&apt.config, 0o600)?;
        apt.update()?;
        Ok(apt)
    }

    /// Copies the machine's lists of sources, wherever its own configuration says they are: its own entries if
    /// `own`, and what these say of its release, for the suites `added`.
    fn copy_sources(&self, own: bool, added: &[String]) -> Result<()> {
        let places = capture(Command::new("apt-config").args([
            "shell",
            "LIST",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ]))?;
        let place = |name: &str| {
            let line = places.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            PathBuf::from(line.unwrap_or_default().trim_matches('\''))
        };
        let list = place("LIST");
        let mut files: Vec<PathBuf> = list.is_file().then_some(list).into_iter().collect();
        if let Ok(folder) = fs::read_dir(place("PARTS")) {
            files.extend(folder.flatten().map(|entry| entry.path()).filter(|path| {
                path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
            }));
        }
        if files.is_empty() {
            bail!("apt has no sources on this machine");
        }
        let codename = if added.is_empty() { String::new() } else { sources::codename()? };
        let mut any = own;
        for file in files {
            let name = file.file_name().context("an apt source without a name")?;
            let text =
                fs::read_to_string(&file).with_context(|| format!("{} could not be read", file.display()))?;
            let more = sources::of(added, &text, &codename);
            any |= !more.is_empty();
            let text = if own { format!("{text}\n{more}") } else { more };
            write_whole(&self.folder.join("sources").join(name), text.as_bytes())?;
        }
        if !any {
            bail!("none of the machine's apt sources is the distribution's own");
        }
        Ok(())
    }

    /// The private configuration: the machine's transport settings, and our own folders.
    fn configuration(&self, architecture: &str) -> Result<String> {
        let machine = capture(Command::new("apt-config").arg("dump"))?;
        let mut text: String = machine
            .lines()
            .filter(|line| line.starts_with("Acquire::"))
            // Extra indexes (icons, descriptions) that desktop tools ask for are not wanted here.
            .filter(|line| {
                !["IndexTargets", "Changelogs", "Languages"].iter().any(|part| line.contains(part))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let folder = self.folder.display();
        let user = capture(Command::new("id").arg("-un"))?;
        text.push_str(&format!(
            "APT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Sandbox::User \"{}\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n\
             Dir::State \"{folder}/state\";\n\
             Dir::State::status \"{folder}/state/status\";\n\
             Dir::Cache \"{folder}/cache\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\n\
             Dir::Etc::sourceparts \"{folder}/sources\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::parts \"{folder}/empty\";\n",
            user.trim()
        ));
        Ok(text)
    }

    /// Fetches the index. One source of several may fail: what matters is whether our packages are found.
    fn update(&self) -> Result<()> {
        if let Err(error) = capture(self.command("apt-get").args(["update", "-q"])) {
            let lists = self.folder.join("state/lists");
            let fetched = fs::read_dir(lists).is_ok_and(|mut files| {
                files.any(|file| {
                    file.is_ok_and(|file| file.file_name().to_string_lossy().contains("_Packages"))
                })
            });
            if !fetched {
                return Err(error.context("apt could not fetch any package index"));
            }
            eprintln!("warning: a source of packages did not answer; going on with the others");
        }
        Ok(())
    }

    /// The version of `package` that apt would install.
    pub fn candidate(&self, package: &str) -> Result<Candidate> {
        let text = capture(self.command("apt-cache").args(["show", "--no-all-versions", package]))
            .with_context(|| format!("the machine's apt sources have no package {package}"))?;
        Candidate::parse(&text).with_context(|| format!("apt's record of {package} is not understood"))
    }

    /// Downloads one package, without what it depends on.
    pub fn download(&self, candidate: &Candidate) -> Result<PathBuf> {
        let folder =
            tempfile::tempdir_in(self.folder.join("packages")).context("a folder for a package")?.keep();
        let wanted = format!("{}={}", candidate.package, candidate.version);
        capture(self.command("apt-get").args(["download", "-q", &wanted]).current_dir(&folder))
            .with_context(|| format!("package {wanted} could not be fetched"))?;
        let mut files = packages_in(&folder)?;
        files.pop().with_context(|| format!("apt left no file for {wanted}"))
    }

    /// Downloads `packages` and everything they need that is not installed.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let arguments = ["install", "-q", "-y", "--download-only", "--no-install-recommends"];
        capture(self.command("apt-get").args(arguments).args(packages)).with_context(|| {
            format!("package {} and what it needs could not be fetched", packages.join(", "))
        })?;
        packages_in(&self.folder.join("cache/archives"))
    }

    /// The names of `packages`, which may be apt's patterns, and of everything they need that is not installed.
    pub fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        let arguments = ["install", "--simulate", "--no-install-recommends"];
        let text = capture(self.command("apt-get").args(arguments).args(packages))
            .with_context(|| format!("what {} need is not to be had", packages.join(", ")))?;
        let names = text.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        Ok(names.map(String::from).collect())
    }

    /// What the index says of these packages, a paragraph each.
    pub fn records(&self, packages: &[String]) -> Result<String> {
        capture(self.command("apt-cache").args(["show", "--no-all-versions"]).args(packages))
    }

    /// Removes downloaded packages; the index stays for the next time.
    pub fn clean(&self) -> Result<()> {
        remove_folder(&self.folder.join("packages"))?;
        remove_folder(&self.folder.join("cache"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

impl Candidate {
    /// Reads the first stanza of `apt-cache show`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let depends = field("Depends")
            .unwrap_or_default()
            .split(", ")
            .filter_map(|clause| clause.split([' ', ':', '|']).next())
            .filter(|name| !name.is_empty())
            .map(String::from)
            .collect();
        Some(Self { package: field("Package")?.into(), version: field("Version")?.into(), depends })
    }
}

/// A list of packages (a stanza each) without those that have one of these words in their names.
fn without(status: &str, words: &[&str]) -> String {
    let stays = |stanza: &&str| {
        let name = stanza.lines().find_map(|line| line.strip_prefix("Package: ")).unwrap_or_default();
        !words.iter().any(|word| name.contains(word))
    };
    let stanzas =
        status.split("\n\n").map(|stanza| stanza.trim_matches('\n')).filter(|stanza| !stanza.is_empty());
    stanzas.filter(stays).map(|stanza| format!("{stanza}\n\n")).collect()
}

/// Unpacks a package's files into `folder`, as `dpkg` would into the root.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    capture(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder)).map(drop)
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("{} could not be listed", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
