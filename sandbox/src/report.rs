// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a process died: the crash page it shares with its parent, and its rendering as text.
//!
//! The parent makes the page, hands it over at exec, keeps its own descriptor and reads it once the process has
//! ended. Its contents come from a process that may be compromised: it is copied once, checked, bounded, and made
//! printable. It can lie about its own death, and about nothing else.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::SealFlags;

use crate::profile::Profile;
use crate::sys::{PAGE_LEN, PAGE_WORDS, Page};
use crate::{arguments, memory_file, seccomp, syscalls};

pub(crate) mod layout;

/// The exit code of a process that ended because of a refused system call (128 + SIGSYS).
pub const EXIT_DENIED: i32 = 128 + libc::SIGSYS;
/// Added to the number of a fatal signal, the exit code of a process that ended because of it.
pub const EXIT_FAULT_BASE: i32 = 128;

/// One page of memory shared by a process and its parent, of a size that neither can change.
#[derive(Debug)]
pub struct CrashPage {
    file: OwnedFd,
}

impl CrashPage {
    /// Makes an empty page. For the parent.
    pub fn create() -> io::Result<CrashPage> {
        let file = memory_file::create(c"crash-page")?;
        rustix::fs::ftruncate(&file, PAGE_LEN as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(CrashPage { file })
    }

    /// Takes the page that was handed over at exec. For the child.
    pub fn from_fd(file: OwnedFd) -> io::Result<CrashPage> {
        if rustix::fs::fstat(&file)?.st_size != i64::try_from(PAGE_LEN).unwrap_or(0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the crash page is not one page long"));
        }
        Ok(CrashPage { file })
    }

    /// Another handle on the same page.
    pub fn try_clone(&self) -> io::Result<CrashPage> {
        Ok(CrashPage { file: self.file.try_clone()? })
    }

    /// The page's 64-bit words, read once.
    fn copy(&self) -> io::Result<[u64; PAGE_WORDS]> {
        let mut bytes = [0u8; PAGE_LEN];
        let mut done = 0;
        while done < PAGE_LEN {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let count = rustix::io::pread(&self.file, rest, done as u64)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done = done.saturating_add(count);
        }
        let mut words = [0u64; PAGE_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*chunk);
        }
        Ok(words)
    }
}

impl AsFd for CrashPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A process's record of its own death.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It made a system call that its profile refuses.
    DeniedSyscall {
        /// The role.
        profile: &'static str,
        /// The call's name, if the number has one.
        name: Option<&'static str>,
        /// The call's number.
        number: u32,
        /// The call's arguments.
        args: [u64; 6],
        /// The kernel's audit architecture word; not the host's when a call of another ABI was tried.
        arch: u32,
        /// Where in the program.
        ip: u64,
        /// The thread, as numbered inside.
        thread: u32,
        /// Why the profile refuses it.
        rule: String,
    },
    /// A fault of its own.
    Fault {
        /// The role.
        profile: &'static str,
        /// SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT.
        signal: i32,
        /// The address it touched, where the signal has one.
        address: u64,
        /// Where in the program.
        ip: u64,
        /// The thread, as numbered inside.
        thread: u32,
    },
    /// It panicked. Not always the end: a panic can be caught.
    Panic {
        /// The role.
        profile: &'static str,
        /// Thread, place and message.
        message: String,
    },
}

/// Decodes `page` for a process of this profile; `None` if it has no valid record.
pub fn read(page: &CrashPage, profile: &Profile) -> Option<Death> {
    let words = page.copy().ok()?;
    fatal(&words, profile).or_else(|| panicked(&words, profile))
}

fn fatal(words: &[u64; PAGE_WORDS], profile: &Profile) -> Option<Death> {
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    if word(layout::FATAL_STATE) != layout::COMPLETE {
        return None;
    }
    let args = [0, 1, 2, 3, 4, 5].map(|at| word(layout::FATAL_ARGS + at));
    let number = u32::try_from(word(layout::FATAL_NUMBER)).ok()?;
    let ip = word(layout::FATAL_IP);
    let thread = u32::try_from(word(layout::FATAL_THREAD)).ok()?;
    match word(layout::FATAL_KIND) {
        layout::KIND_DENIED => {
            let arch = u32::try_from(word(layout::FATAL_ARCH)).ok()?;
            let native = arch == profile.arch.audit_arch();
            let rule = if native {
                seccomp::explain(profile, number, &args).unwrap_or_else(|| {
                    format!("allowed by profile `{}`: an outer filter refused it", profile.name)
                })
            } else {
                format!("a call of another ABI (audit architecture 0x{arch:x})")
            };
            let name = if native { syscalls::name(number, profile.arch) } else { None };
            Some(Death::DeniedSyscall { profile: profile.name, name, number, args, arch, ip, thread, rule })
        }
        layout::KIND_FAULT => {
            let signal = i32::try_from(number).ok().filter(|signal| (1..=64).contains(signal))?;
            Some(Death::Fault { profile: profile.name, signal, address: args[0], ip, thread })
        }
        _ => None,
    }
}

fn panicked(words: &[u64; PAGE_WORDS], profile: &Profile) -> Option<Death> {
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    if word(layout::PANIC_STATE) != layout::COMPLETE {
        return None;
    }
    let len = usize::try_from(word(layout::PANIC_LEN)).unwrap_or(usize::MAX).min(layout::PANIC_LEN_MAX);
    let bytes: Vec<u8> = words
        .iter()
        .skip(layout::PANIC_TEXT)
        .take(layout::PANIC_LEN_MAX / 8)
        .flat_map(|word| word.to_le_bytes())
        .take(len)
        .collect();
    Some(Death::Panic { profile: profile.name, message: printable(&bytes) })
}

/// Text from a process that may lie: no control characters (a terminal would obey them), no bidirectional overrides,
/// line ends as `⏎`.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars()
        .map(|c| {
            if c == '\n' {
                '⏎'
            } else if odd(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::DeniedSyscall { profile, name, number, args, ip, thread, rule, .. } => {
                let call = match name {
                    Some(name) => arguments::show_call(name, args),
                    None => arguments::show_call(&format!("number {number}"), args),
                };
                write!(f, "`{profile}` ended itself: system call {call} refused: {rule}")?;
                write!(f, "; thread {thread}, at 0x{ip:x}")
            }
            Death::Fault { profile, signal, address, ip, thread } => {
                let name = match *signal {
                    libc::SIGSEGV => "SIGSEGV",
                    libc::SIGBUS => "SIGBUS",
                    libc::SIGILL => "SIGILL",
                    libc::SIGFPE => "SIGFPE",
                    libc::SIGABRT => "SIGABRT (it aborted)",
                    _ => "an unexpected signal",
                };
                write!(f, "`{profile}` died of {name}, address 0x{address:x}; thread {thread}, at 0x{ip:x}")
            }
            Death::Panic { profile, message } => write!(f, "`{profile}` panicked: {message}"),
        }
    }
}

/// From now on a panic leaves its message in `page`, then does what it did before.
pub(crate) fn record_panics(page: Page) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        write_panic(page, &format!("thread `{name}`: {info}"));
        before(info);
    }));
}

fn write_panic(page: Page, text: &str) {
    page.store(layout::PANIC_STATE, layout::WRITING);
    let bytes = text.as_bytes();
    let kept = bytes.get(..layout::PANIC_LEN_MAX).unwrap_or(bytes);
    for (at, chunk) in kept.chunks(8).enumerate() {
        let mut word = [0u8; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        page.store(layout::PANIC_TEXT.saturating_add(at), u64::from_le_bytes(word));
    }
    page.store(layout::PANIC_LEN, kept.len() as u64);
    page.store(layout::PANIC_STATE, layout::COMPLETE);
}

#[cfg(test)]
mod tests;
