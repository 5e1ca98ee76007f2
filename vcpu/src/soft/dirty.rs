// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty logging of this process's writes to guest RAM: vCPUs and GIC.
//!
//! vCPUs mark a page when it enters their write TLB, the GIC when it writes its tables. While the log is off
//! nothing is marked; switching it on flushes the write TLBs, so that no page is being written unmarked.

use ipc::addr::Gpa;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::GuestMemory;
use soft_cpu::dirty::DirtySink;
use soft_cpu::gic::TableMemory;
use std::sync::Arc;

/// The log as vCPUs use it.
#[derive(Debug)]
pub struct CpuLog(pub Arc<DirtyLog>);

impl DirtySink for CpuLog {
    fn mark(&self, gpa: u64, len: u64) {
        self.0.mark(Gpa(gpa), len);
    }
}

/// Guest RAM as the GIC uses it: its tables and queues.
#[derive(Debug)]
pub struct GicMemory(pub GuestMemory);

impl TableMemory for GicMemory {
    fn read(&self, gpa: u64, buffer: &mut [u8]) -> bool {
        self.0.read(Gpa(gpa), buffer).is_ok()
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        self.0.write(Gpa(gpa), bytes).is_ok()
    }
}
