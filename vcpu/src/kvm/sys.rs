// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The only unsafe code of this crate: KVM ioctls that take addresses, and kicks out of guest code.
//!
//! A vCPU's thread is kicked by a signal (Linux, Documentation/virt/kvm/api.rst, KVM_RUN and `immediate_exit`). Its
//! handler sets one byte of the thread's own `kvm_run`: in guest code the signal itself ends KVM_RUN, and just before
//! entry the byte does. So no kick is lost between the check of the kick flag and the entry.
// UNSAFETY: the kernel is handed addresses of guest memory and of buffers, which no type can follow; a signal handler
// writes into a mapping that the kernel reads. Each is wrapped here, alone and small.
#![expect(unsafe_code, reason = "ioctls that take addresses, and one signal handler; the wall of this crate")]

use super::memslots::{Kind, Slot};
use crate::window_memory::WindowMemory;
use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ, KVM_IRQFD_FLAG_DEASSIGN,
    KVM_IRQFD_FLAG_RESAMPLE, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVMIO, kvm_arm_counter_offset,
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_irqfd,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::errno::{Error as Errno, Result};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_IRQFD, KVMIO, 0x76, kvm_irqfd);
ioctl_iowr_nr!(KVM_GET_REG_LIST, KVMIO, 0xb0, u64);
ioctl_iow_nr!(KVM_ARM_SET_COUNTER_OFFSET, KVMIO, 0xb5, kvm_arm_counter_offset);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// The signal that kicks a vCPU's thread out of guest code; the sandbox profile allows exactly this one.
const KICK: c_int = libc::SIGUSR1;

/// KVM, by a descriptor of /dev/kvm.
pub fn kvm(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned here and passed on; if it is not KVM's, the first ioctl fails.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Puts `memory`'s region at `slot.gpa` into the guest. The caller keeps `memory` mapped for as long as the VM lives.
pub fn set_memory(vm: &VmFd, slot: &Slot, memory: &GuestMemoryMmap, log: bool) -> Result<()> {
    let region = memory.iter().find(|region| region.start_addr().0 == slot.gpa && region.len() == slot.len);
    let region = region.ok_or(Errno::new(libc::ENOENT))?;
    let host = region.get_host_address(MemoryRegionAddress(0)).map_err(|_| Errno::new(libc::EFAULT))?;
    let flags = match slot.kind {
        Kind::ReadOnly => KVM_MEM_READONLY,
        Kind::Ram if log => KVM_MEM_LOG_DIRTY_PAGES,
        Kind::Ram => 0,
    };
    let region = kvm_userspace_memory_region {
        slot: slot.number,
        flags,
        guest_phys_addr: slot.gpa,
        memory_size: slot.len,
        userspace_addr: host as u64,
    };
    // SAFETY: the range is one whole mapping of shared memory, which Rust code here reaches through atomics and
    // volatile copies only; it stays mapped as long as the VM, by this function's contract with its callers.
    unsafe { vm.set_user_memory_region(region) }
}

/// Puts a device's memory into the guest. The caller keeps `memory` for as long as the slot is there.
pub fn set_window(vm: &VmFd, number: u32, memory: &WindowMemory) -> Result<()> {
    let place = memory.place();
    let region = kvm_userspace_memory_region {
        slot: number,
        flags: if memory.is_writable() { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: place.start().0,
        memory_size: place.len(),
        userspace_addr: memory.host_address().ok_or(Errno::new(libc::EFAULT))? as u64,
    };
    // SAFETY: the range is one whole mapping of device memory, which Rust code here reaches through atomics and
    // volatile copies or not at all; it stays mapped as long as the slot, by this function's contract with its callers.
    unsafe { vm.set_user_memory_region(region) }
}

/// Takes memory out of the guest. From the return on no vCPU reaches it.
pub fn remove_slot(vm: &VmFd, number: u32) -> Result<()> {
    let region = kvm_userspace_memory_region { slot: number, ..Default::default() };
    // SAFETY: a slot without bytes refers to no memory.
    unsafe { vm.set_user_memory_region(region) }
}

/// Sets an attribute of a device to the value in `value`, whose size the attribute knows.
pub fn set_attr<T: Attribute>(device: &DeviceFd, group: u32, attr: u64, value: T) -> Result<()> {
    let addr = &raw const value as u64;
    device.set_device_attr(&kvm_device_attr { flags: 0, group, attr, addr })
}

/// Reads an attribute of a device.
pub fn get_attr<T: Attribute>(device: &DeviceFd, group: u32, attr: u64) -> Result<T> {
    let mut value = T::default();
    let mut request = kvm_device_attr { flags: 0, group, attr, addr: &raw mut value as u64 };
    // SAFETY: the kernel writes as many bytes as the attribute has; a `u64` has room for the largest of those that an
    // interrupt controller has, and 32-bit groups are asked for `u32`, as the kernel documents each group.
    unsafe { device.get_device_attr(&mut request) }?;
    Ok(value)
}

/// Carries out a command of a device, which has no value.
pub fn command(device: &DeviceFd, group: u32, attr: u64) -> Result<()> {
    device.set_device_attr(&kvm_device_attr { flags: 0, group, attr, addr: 0 })
}

/// Sets the interrupt of a vCPU's PMU and initialises it.
pub fn set_up_pmu(vcpu: &VcpuFd, intid: i32) -> Result<()> {
    let (group, addr) = (KVM_ARM_VCPU_PMU_V3_CTRL, &raw const intid as u64);
    vcpu.set_device_attr(&kvm_device_attr { flags: 0, group, attr: KVM_ARM_VCPU_PMU_V3_IRQ.into(), addr })?;
    vcpu.set_device_attr(&kvm_device_attr { flags: 0, group, attr: KVM_ARM_VCPU_PMU_V3_INIT.into(), addr: 0 })
}

/// An attribute's value: plain words.
pub trait Attribute: Copy + Default {}
impl Attribute for u32 {}
impl Attribute for u64 {}

/// The ids of all registers of a vCPU, however many.
pub fn register_ids(vcpu: &VcpuFd) -> Result<Vec<u64>> {
    // The list's head is its own length, then come the ids.
    let mut list = vec![0_u64; 1];
    for _ in 0..2 {
        // SAFETY: the first word says how many ids have room behind it, and the kernel writes no more; too few is
        // an error that leaves the right number in the first word.
        let done = unsafe { ioctl_with_mut_ptr(vcpu, KVM_GET_REG_LIST(), list.as_mut_ptr()) };
        let error = Errno::last();
        let count = list.first().copied().unwrap_or(0);
        let len = usize::try_from(count).map_err(|_| Errno::new(libc::E2BIG))?.saturating_add(1);
        if done == 0 {
            list.truncate(len);
            return Ok(list.split_off(1));
        }
        if error.errno() != libc::E2BIG || len > REGISTERS_MAX {
            return Err(error);
        }
        list.resize(len, 0);
    }
    Err(Errno::new(libc::E2BIG))
}

/// Far more than any vCPU has, pseudo registers and SVE included.
const REGISTERS_MAX: usize = 16 * 1024;

/// The file of a vCPU's statistics. The vCPU must not run: the kernel would wait for it.
pub fn stats(vcpu: &VcpuFd) -> Result<OwnedFd> {
    // SAFETY: the call takes no argument.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just opened it for us and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The frequency of the host's counter, and so of every guest's, in Hz.
pub fn counter_hz() -> u64 {
    let hz: u64;
    // SAFETY: reads a register that Linux lets processes read (CNTKCTL_EL1).
    unsafe {
        std::arch::asm!("mrs {hz}, cntfrq_el0", hz = out(reg) hz, options(nomem, nostack, preserves_flags))
    };
    hz
}

/// The host's counter, in ticks.
pub fn counter() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register that Linux lets processes read (CNTKCTL_EL1). The barrier keeps the read in its place.
    unsafe {
        std::arch::asm!("isb", "mrs {ticks}, cntvct_el0", ticks = out(reg) ticks, options(nostack, preserves_flags))
    };
    ticks
}

/// The host's page size in bytes. The C library knows it from the start; others ask the kernel, which a sealed process
/// must not.
pub fn page_len() -> u64 {
    // SAFETY: reads a constant of the process.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0x1000)
}

/// Write-protects the pages whose bits are set again (KVM_CLEAR_DIRTY_LOG). The bitmap is of the whole slot.
pub fn clear_dirty(vm: &VmFd, slot: &Slot, page_len: u64, bitmap: &mut [u64]) -> Result<()> {
    let pages = slot.len / page_len;
    if (bitmap.len() as u64).saturating_mul(64) < pages {
        return Err(Errno::new(libc::EINVAL));
    }
    let mut request = kvm_clear_dirty_log {
        slot: slot.number,
        num_pages: u32::try_from(pages).map_err(|_| Errno::new(libc::E2BIG))?,
        first_page: 0,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_mut_ptr().cast::<c_void>(),
        },
    };
    // SAFETY: the kernel reads one bit for each page, and the bitmap was just checked to have as many.
    check(unsafe { ioctl_with_mut_ref(vm, KVM_CLEAR_DIRTY_LOG(), &mut request) })
}

/// Sets the offset of the guest's counters, virtual and physical, from the host's.
pub fn set_counter_offset(vm: &VmFd, ticks: u64) -> Result<()> {
    let offset = kvm_arm_counter_offset { counter_offset: ticks, reserved: 0 };
    // SAFETY: the kernel reads one structure of this type.
    check(unsafe { ioctl_with_ref(vm, KVM_ARM_SET_COUNTER_OFFSET(), &offset) })
}

/// Assigns or deassigns an irqfd on `eventfd`. With `ended` the interrupt is a level that is lowered when the guest
/// ends it, and `ended` is the resamplefd, signalled then.
pub fn irqfd(
    vm: &VmFd,
    eventfd: BorrowedFd<'_>,
    ended: Option<BorrowedFd<'_>>,
    gsi: u32,
    assign: bool,
) -> Result<()> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::new(libc::EBADF));
    let fd = number(eventfd)?;
    let mut request = kvm_irqfd { fd, gsi, ..Default::default() };
    if let Some(ended) = ended {
        request.flags |= KVM_IRQFD_FLAG_RESAMPLE;
        request.resamplefd = number(ended)?;
    }
    if !assign {
        request.flags = KVM_IRQFD_FLAG_DEASSIGN;
    }
    // SAFETY: the kernel reads one structure of this type, and keeps its own reference to the eventfds.
    check(unsafe { ioctl_with_ref(vm, KVM_IRQFD(), &request) })
}

fn check(answer: c_int) -> Result<()> {
    if answer == 0 { Ok(()) } else { Err(Errno::last()) }
}

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, or null.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(std::ptr::null()) };
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let byte = IMMEDIATE_EXIT.get();
    // SAFETY: not null only while an `Interruptible` of this thread lives, which borrows the vCPU whose mapping it is.
    if let Some(byte) = unsafe { byte.as_ref() } {
        byte.store(1, Ordering::SeqCst);
    }
}

/// Installs the kick's handler: before sealing, which forbids it.
pub fn install_kick_handler() -> std::io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(KICK, on_kick).map_err(Into::into)
}

/// Kicks a thread of this process by its id; does nothing if it has ended.
pub fn kick(thread: i32) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: sends a signal whose handler is installed and touches nothing but the thread's own vCPU.
    let _ = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, KICK) };
}

/// While this lives, a kick of the calling thread makes the vCPU's next KVM_RUN return at once.
pub struct Interruptible<'a> {
    vcpu: &'a mut VcpuFd,
}

impl<'a> Interruptible<'a> {
    /// Begins.
    pub fn new(vcpu: &'a mut VcpuFd) -> Self {
        let byte = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(byte.cast_const().cast::<AtomicU8>());
        Self { vcpu }
    }

    /// Sets or clears the request to return at once.
    pub fn set_immediate_exit(&self, now: bool) {
        // SAFETY: as in the handler; this thread's own byte.
        if let Some(byte) = unsafe { IMMEDIATE_EXIT.get().as_ref() } {
            byte.store(now.into(), Ordering::SeqCst);
        }
    }

    /// The vCPU.
    pub fn vcpu(&mut self) -> &mut VcpuFd {
        self.vcpu
    }
}

impl Drop for Interruptible<'_> {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(std::ptr::null());
    }
}
