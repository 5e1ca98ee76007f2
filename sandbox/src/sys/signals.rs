// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The handlers that record why a sealed process dies and then end it; and masks and actions of signals.
//!
//! SIGSYS: a call the filter refused. SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT: a fault of its own. They are installed
//! before sealing; afterwards the filter refuses to change them. A handler only loads and stores atomics and
//! makes two calls every profile allows (gettid, exit_group). All signals are blocked while one runs: a second
//! fault inside it is then forced by the kernel, which kills. See sigaction(2), seccomp(2) (SECCOMP_RET_TRAP).

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use super::page::Page;
use super::process::exit_group;
use crate::report::layout;

/// Between clone and exec: where a refused call is recorded, since the crash page is still the parent's.
static SPAWN_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Where the kernel puts the call's number and architecture in a SIGSYS's siginfo (asm-generic/siginfo.h).
#[repr(C)]
struct SigsysInfo {
    signo: c_int,
    errno: c_int,
    code: c_int,
    call_addr: *const c_void,
    syscall: c_int,
    arch: u32,
}

/// From now on a refused call of this process is written to `pipe` (`spawn::record`) and not in the crash page. For the
/// process between clone and exec.
pub(crate) fn report_to_pipe(pipe: RawFd) {
    SPAWN_PIPE.store(pipe, Ordering::Relaxed);
}

/// Installs the handlers, and ignores the signal that a write beyond the largest file brings: the write fails with
/// EFBIG instead.
pub(crate) fn install_handlers() -> io::Result<()> {
    for signal in [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            if signal == libc::SIGSYS { on_denied } else { on_fault };
        // SAFETY: an all-zero sigaction is a valid value of this plain C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `sa_mask` is a live sigset_t.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
        // SAFETY: `action` is initialised and its handler has the SA_SIGINFO shape.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: SIG_IGN is no function of this program; no handler of the signal is in use.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Blocks every signal but SIGSYS, so that no handler of this program runs in the child. Returns the old mask.
pub(crate) fn block_signals() -> SignalMask {
    let mut all = SignalMask::empty();
    // SAFETY: `all` is a live sigset_t.
    unsafe { libc::sigfillset(&raw mut all.0) };
    // SAFETY: as above.
    unsafe { libc::sigdelset(&raw mut all.0, libc::SIGSYS) };
    let mut old = SignalMask::empty();
    // SAFETY: both sets are live for the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all.0, &raw mut old.0) };
    old
}

/// A set of blocked signals.
pub(crate) struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// No signal.
    pub(crate) fn empty() -> SignalMask {
        // SAFETY: an all-zero sigset_t is the empty set on Linux.
        SignalMask(unsafe { std::mem::zeroed() })
    }
}

/// Makes `mask` the calling thread's.
pub(crate) fn set_signal_mask(mask: &SignalMask) {
    // SAFETY: the set is live; no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

/// Whether this process ignores `signal`.
pub(crate) fn is_ignored(signal: c_int) -> bool {
    // SAFETY: an all-zero sigaction is a valid value of this plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is installed; `action` is live for the kernel to fill.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Lets the kernel do to this process what `signal` does where there is no handler; returns when the process goes on,
/// with the handler in place again.
pub(crate) fn act_by_default(signal: c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of this plain C structure: the default action, an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut handler: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are live, and the default action runs no code of this process.
    if unsafe { libc::sigaction(signal, &raw const default, &raw mut handler) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sends a signal to the calling thread, which takes it before this returns.
    unsafe { libc::raise(signal) };
    // SAFETY: `handler` is what the kernel gave out above.
    unsafe { libc::sigaction(signal, &raw const handler, std::ptr::null_mut()) };
    Ok(())
}

/// Gives `signal` its default action.
pub(crate) fn set_default(signal: c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value of this plain C structure: the default action, an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the action is live and runs no code of this process; the old one is not asked for.
    if unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Blocks `signal` in the calling thread.
pub(crate) fn block_in_thread(signal: c_int) {
    let mut set = SignalMask::empty();
    // SAFETY: the set is live; a number that is no signal is refused.
    unsafe { libc::sigaddset(&raw mut set.0, signal) };
    // SAFETY: the set is live; no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set.0, std::ptr::null_mut()) };
}

extern "C" fn on_denied(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo; for SIGSYS its fields lie as in `SigsysInfo`, within its 128 bytes.
    let info = unsafe { info.cast::<SigsysInfo>().read_unaligned() };
    let pipe = SPAWN_PIPE.load(Ordering::Relaxed);
    if pipe >= 0 {
        let record = crate::spawn::denied_record(info.syscall);
        // SAFETY: writes eight bytes of a live array to a descriptor of this process.
        unsafe { libc::write(pipe, record.as_ptr().cast(), record.len()) };
    } else {
        // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's ucontext.
        let (args, ip) = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
        record(layout::KIND_DENIED, info.syscall.cast_unsigned().into(), args, ip, info.arch.into());
    }
    exit_group(crate::report::EXIT_DENIED);
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo, which is plain data.
    let info = unsafe { info.read() };
    // SAFETY: every signal this handles has the address word, meaningful or zero.
    let address = unsafe { info.si_addr() } as u64;
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's ucontext.
    let (_, ip) = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
    record(layout::KIND_FAULT, u64::from(signal.cast_unsigned()), [address, 0, 0, 0, 0, 0], ip, 0);
    exit_group(crate::report::EXIT_FAULT_BASE.saturating_add(signal));
}

/// Writes the fatal record if nobody has; else waits until the thread that claimed it is done, within a bound.
fn record(kind: u64, number: u64, args: [u64; 6], ip: u64, arch: u64) {
    let Some(page) = Page::mapped() else { return };
    if !page.claim(layout::FATAL_STATE, layout::WRITING) {
        for _ in 0..1_000_000 {
            if page.load(layout::FATAL_STATE) == layout::COMPLETE {
                break;
            }
            std::hint::spin_loop();
        }
        return;
    }
    // SAFETY: gettid takes nothing and cannot fail; every profile allows it.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    page.store(layout::FATAL_KIND, kind);
    page.store(layout::FATAL_NUMBER, number);
    for (at, arg) in args.into_iter().enumerate() {
        page.store(layout::FATAL_ARGS.saturating_add(at), arg);
    }
    page.store(layout::FATAL_IP, ip);
    page.store(layout::FATAL_ARCH, arch);
    page.store(layout::FATAL_THREAD, thread.cast_unsigned());
    page.store(layout::FATAL_STATE, layout::COMPLETE);
}

/// The six arguments of the interrupted call and the place it was made from. The kernel has rolled the call back, so
/// the first argument is the caller's and not an answer.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> ([u64; 6], u64) {
    let register = |index: i32| {
        let at = usize::try_from(index).unwrap_or(0);
        context.uc_mcontext.gregs.get(at).map_or(0, |word| word.cast_unsigned())
    };
    let args = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];
    (args.map(register), register(libc::REG_RIP))
}

/// As above: arguments are x0 to x5.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> ([u64; 6], u64) {
    let registers = &context.uc_mcontext.regs;
    let args = [0usize, 1, 2, 3, 4, 5].map(|index| registers.get(index).copied().unwrap_or(0));
    (args, context.uc_mcontext.pc)
}
