// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One vCPU of the host: the loop around KVM_RUN, and its registers as state.
//!
//! Its thread holds the lock while guest code runs; while it is parked others may take it. A kick sets a flag and
//! then signals: the thread reads the flag after it has made itself interruptible, so no kick is lost.

use super::registers::{self, COUNTERS, core};
use super::saved::{KvmRegisterV1, KvmVcpuV1};
use super::stats::Stats;
use super::sys::{self, Interruptible};
use crate::bus::Bus;
use crate::engine::Exit;
use ipc::protocol::control::Failure;
use ipc::protocol::inspect::Inspect;
use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_EXIT_ARM_NISV,
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_mp_state, kvm_vcpu_events,
    kvm_vcpu_init,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use machine::layout::{PPI_BASE, ppi};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One vCPU.
pub struct Cpu {
    index: usize,
    fd: Mutex<VcpuFd>,
    /// The thread that runs it; 0 before there is one.
    thread: AtomicI32,
    kicked: AtomicBool,
    /// The kernel's exit statistics, or why they are not available.
    stats: Result<Stats, String>,
    counters: Counters,
}

/// Counters that the kernel does not have: direction of MMIO accesses, and kicks.
#[derive(Debug, Default)]
struct Counters {
    mmio_reads: AtomicU64,
    mmio_writes: AtomicU64,
    kicks: AtomicU64,
}

/// What the loop does after an exit.
enum Next {
    /// Enter again; an MMIO access completes at that KVM_RUN.
    Run {
        completes: bool,
    },
    /// An access without a valid syndrome (ISV=0): injected as an external abort.
    Abort,
    Leave(Exit),
}

impl Cpu {
    /// Makes and resets vCPU `index`; all but the first wait for PSCI's CPU_ON.
    pub fn new(vm: &VmFd, index: usize, pmu: bool) -> Result<Self, Failure> {
        let fail = |step: &str| {
            let what = format!("{step} vCPU {index}");
            move |errno: vmm_sys_util::errno::Error| Failure::new(what, errno)
        };
        let fd = vm.create_vcpu(index as u64).map_err(fail("create"))?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).map_err(fail("find the preferred target of"))?;
        let power = if index == 0 { 0 } else { 1 << KVM_ARM_VCPU_POWER_OFF };
        if let Some(features) = init.features.first_mut() {
            *features |= 1 << KVM_ARM_VCPU_PSCI_0_2 | u32::from(pmu) << KVM_ARM_VCPU_PMU_V3 | power;
        }
        fd.vcpu_init(&init).map_err(fail("reset"))?;
        let stats = sys::stats(&fd).map_err(|errno| errno.to_string()).and_then(Stats::of);
        Ok(Self {
            index,
            fd: Mutex::new(fd),
            thread: AtomicI32::new(0),
            kicked: AtomicBool::new(false),
            stats,
            counters: Counters::default(),
        })
    }

    /// Sets the PMU's interrupt. The interrupt controller is initialised already.
    pub fn set_up_pmu(&self) -> Result<(), Failure> {
        let intid = i32::try_from(PPI_BASE + ppi::PMU).unwrap_or_default();
        sys::set_up_pmu(&self.fd(), intid).map_err(self.fail("set up the performance monitors of"))
    }

    /// Locks the vCPU; waits for its thread to leave guest code.
    pub fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, step: &str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Failure + use<> {
        let what = format!("{step} vCPU {}", self.index);
        move |errno| Failure::new(what, errno)
    }

    /// Sets its entry point, and `x0`.
    pub fn start_at(&self, pc: u64, x0: u64) -> Result<(), Failure> {
        let fd = self.fd();
        for (id, value) in [(core::PC, pc), (core::X0, x0)] {
            fd.set_one_reg(id, &value.to_le_bytes()).map_err(self.fail("set the start of"))?;
        }
        Ok(())
    }

    /// Makes its thread leave guest code, or not enter it.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            sys::kick(thread);
        }
    }

    /// Runs guest code on the calling thread until an exit that the machine has to handle.
    pub fn run(&self, bus: &Bus) -> Exit {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
        let mut fd = self.fd();
        let mut running = Interruptible::new(&mut fd);
        let mut incomplete = false;
        loop {
            running.set_immediate_exit(false);
            if self.kicked.swap(false, Ordering::SeqCst) {
                if incomplete {
                    // KVM has yet to write the access's result into the guest's register: saved state must include
                    // it.
                    running.set_immediate_exit(true);
                    let _ = running.vcpu().run();
                }
                count(&self.counters.kicks);
                return Exit::Kicked;
            }
            let next = self.step(running.vcpu(), bus);
            match next {
                Next::Run { completes } => incomplete = completes,
                Next::Abort => {
                    incomplete = false;
                    let mut events = kvm_vcpu_events::default();
                    events.exception.ext_dabt_pending = 1;
                    if let Err(errno) = running.vcpu().set_vcpu_events(&events) {
                        return Exit::Fatal(format!("KVM_SET_VCPU_EVENTS failed: {errno}"));
                    }
                }
                Next::Leave(exit) => return exit,
            }
        }
    }

    /// One KVM_RUN, and what to do after its exit.
    fn step(&self, vcpu: &mut VcpuFd, bus: &Bus) -> Next {
        let withdrawals = bus.withdrawals();
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                count(&self.counters.mmio_reads);
                let value = bus.read(gpa, size(data)).to_le_bytes();
                data.iter_mut().zip(value).for_each(|(to, from)| *to = from);
                Next::Run { completes: true }
            }
            Ok(VcpuExit::MmioWrite(gpa, data)) => {
                count(&self.counters.mmio_writes);
                let mut value = [0; 8];
                value.iter_mut().zip(data.iter()).for_each(|(to, from)| *to = *from);
                bus.write(gpa, size(data), u64::from_le_bytes(value));
                Next::Run { completes: true }
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Next::Leave(Exit::PowerOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Next::Leave(Exit::Reset),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => {
                Next::Leave(Exit::Fatal("the guest reported a crash (KVM_SYSTEM_EVENT_CRASH)".into()))
            }
            Ok(VcpuExit::Unsupported(KVM_EXIT_ARM_NISV)) => Next::Abort,
            // A kick, or this process was stopped and goes on: what was to happen meanwhile is looked at.
            Ok(VcpuExit::Intr) => Next::Leave(Exit::Kicked),
            Err(errno) if errno.errno() == libc::EINTR => Next::Leave(Exit::Kicked),
            Err(errno) if errno.errno() == libc::EAGAIN => Next::Run { completes: false },
            // EFAULT on the BAR of a device that is in reset or has memory space disabled: reads as all ones, as on a
            // bus.
            Err(errno) if errno.errno() == libc::EFAULT && bus.withdraw(withdrawals) => {
                Next::Run { completes: false }
            }
            Ok(other) => Next::Leave(Exit::Fatal(format!("unhandled KVM exit {other:?}"))),
            Err(errno) => Next::Leave(Exit::Fatal(format!("KVM_RUN failed: {errno}"))),
        }
    }

    /// A register's value.
    pub fn register(&self, id: u64) -> Result<u64, Failure> {
        let mut value = [0; 8];
        self.fd().get_one_reg(id, &mut value).map_err(self.fail("read a register of"))?;
        Ok(u64::from_le_bytes(value))
    }

    /// All its state; it must not be running.
    pub fn save(&self) -> Result<KvmVcpuV1, Failure> {
        let fd = self.fd();
        let mut registers = Vec::new();
        for id in sys::register_ids(&fd).map_err(self.fail("list the registers of"))? {
            if COUNTERS.contains(&id) {
                continue;
            }
            let mut value = vec![0; registers::size_of_id(id)];
            fd.get_one_reg(id, &mut value).map_err(self.fail(&format!("save register {id:#x} of")))?;
            registers.push(KvmRegisterV1 { id, value });
        }
        let mp_state = fd.get_mp_state().map_err(self.fail("save the power state of"))?.mp_state;
        let events = fd.get_vcpu_events().map_err(self.fail("save the pending events of"))?.exception;
        Ok(KvmVcpuV1 {
            registers,
            mp_state,
            serror_pending: events.serror_pending != 0,
            serror_syndrome: (events.serror_has_esr != 0).then_some(events.serror_esr),
        })
    }

    /// Restores saved state. Registers that have the value already are not written: some are read-only on this host.
    pub fn restore(&self, saved: &KvmVcpuV1) -> Result<(), Failure> {
        let KvmVcpuV1 { registers, mp_state, serror_pending, serror_syndrome } = saved;
        let fd = self.fd();
        let known = sys::register_ids(&fd).map_err(self.fail("list the registers of the new"))?;
        for KvmRegisterV1 { id, value } in registers {
            let refuse =
                |why: String| Failure::new(format!("restore register {id:#x} of vCPU {}", self.index), why);
            if !known.contains(id) || COUNTERS.contains(id) {
                return Err(refuse("this host's vCPUs have no register of that id".into()));
            }
            if value.len() != registers::size_of_id(*id) {
                return Err(refuse(format!("{} bytes were saved", value.len())));
            }
            let mut present = vec![0; value.len()];
            fd.get_one_reg(*id, &mut present)
                .map_err(|errno| refuse(format!("it cannot be read: {errno}")))?;
            if present != *value {
                fd.set_one_reg(*id, value)
                    .map_err(|errno| refuse(format!("KVM refuses {value:02x?}: {errno}")))?;
            }
        }
        fd.set_mp_state(kvm_mp_state { mp_state: *mp_state })
            .map_err(self.fail("restore the power state of"))?;
        let mut events = kvm_vcpu_events::default();
        events.exception.serror_pending = (*serror_pending).into();
        events.exception.serror_has_esr = serror_syndrome.is_some().into();
        events.exception.serror_esr = serror_syndrome.unwrap_or(0);
        if *serror_pending {
            fd.set_vcpu_events(&events).map_err(self.fail("restore the pending events of"))?;
        }
        Ok(())
    }

    /// The kernel's statistics of it.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let prefix = format!("vcpu{}.kvm", self.index);
        match &self.stats {
            Ok(stats) => stats.inspect(&prefix, inspect),
            Err(why) => inspect.text(prefix, format!("KVM_GET_STATS_FD: {why}")),
        }
    }
}

/// The sums of all vCPUs' counters: `inspect` has no room for those of 64.
pub fn inspect_counters(cpus: &[Cpu], inspect: &mut Inspect) {
    let sum = |counter: fn(&Counters) -> &AtomicU64| {
        cpus.iter().map(|cpu| counter(&cpu.counters).load(Ordering::Relaxed)).sum()
    };
    inspect.counter("vcpus.mmio-reads", sum(|counters| &counters.mmio_reads));
    inspect.counter("vcpus.mmio-writes", sum(|counters| &counters.mmio_writes));
    inspect.counter("vcpus.kicks", sum(|counters| &counters.kicks));
}

/// The size of an access; KVM's are 8 bytes at most.
fn size(data: &[u8]) -> u8 {
    u8::try_from(data.len()).unwrap_or(8)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
