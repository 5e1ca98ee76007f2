// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Routes a guest access outside RAM to the device that owns the address.
//!
//! Devices in this process answer at once; those in others through their ring ([`super::remote`]). An address that no
//! device claims reads as zero and ignores writes (RAZ/WI), and is counted. The interrupt controller is not here: it
//! belongs to the engine, which decodes its accesses first.

use super::gate::Gate;
use super::pci_host;
use super::remote::{Place, RemoteDevice};
use super::rtc::Rtc;
use super::uart::Uart;
use super::windows::Windows;
use machine::layout::{PCI_ECAM, PCI_IO, PCI_MMIO32, PCI_MMIO64, RTC, UART, Window};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All MMIO devices but the interrupt controller.
pub struct Bus {
    /// Serial port.
    pub uart: Arc<Uart>,
    /// Clock.
    pub rtc: Rtc,
    /// Devices in other processes.
    pub remotes: Vec<RemoteDevice>,
    /// The run gate: a wait for a device ends when the machine quits.
    pub gate: Arc<Gate>,
    /// Counters of accesses.
    pub counters: Counters,
}

/// Accesses since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Accesses to devices in this process.
    pub local: AtomicU64,
    /// Accesses that went through a ring.
    pub remote: AtomicU64,
    /// Accesses that no device claims.
    pub unassigned: AtomicU64,
}

/// The device that owns an address.
enum Target<'a> {
    Uart(u64),
    Rtc(u64),
    PciHost,
    Remote(&'a RemoteDevice, Place),
    Unclaimed,
}

/// Makes a target from an offset into its range.
type Route = fn(u64) -> Target<'static>;

impl Bus {
    fn target(&self, gpa: u64) -> Target<'_> {
        // Before the host bridge: a function's ranges are inside the bridge's windows.
        for remote in &self.remotes {
            if let Some(place) = remote.place_of(gpa) {
                count(&self.counters.remote);
                return Target::Remote(remote, place);
            }
        }
        let local: [(Window, Route); 6] = [
            (UART, Target::Uart),
            (RTC, Target::Rtc),
            (PCI_ECAM, |_| Target::PciHost),
            (PCI_IO, |_| Target::PciHost),
            (PCI_MMIO32, |_| Target::PciHost),
            (PCI_MMIO64, |_| Target::PciHost),
        ];
        for (window, target) in local {
            if let Some(offset) = window.offset_of(gpa) {
                count(&self.counters.local);
                return target(offset);
            }
        }
        count(&self.counters.unassigned);
        Target::Unclaimed
    }

    /// How often windows were removed from the guest.
    pub fn withdrawals(&self) -> u64 {
        self.remotes.iter().filter_map(RemoteDevice::memory).map(Windows::withdrawals).sum()
    }

    /// KVM_RUN failed on a guest access to memory (EFAULT), after `withdrawals` was read. If it may have been to a
    /// physical device's BAR, its windows are removed from the guest and the access is to be retried. False: it was
    /// other memory.
    pub fn withdraw(&self, withdrawals: u64) -> bool {
        // All of them: the host does not report the address.
        let withdrawn =
            self.remotes.iter().filter_map(RemoteDevice::memory).filter(|memory| memory.withdraw()).count();
        withdrawn != 0 || self.withdrawals() != withdrawals
    }

    /// Reads `size` (1, 2, 4 or 8) bytes, zero-extended.
    pub fn read(&self, gpa: u64, size: u8) -> u64 {
        match self.target(gpa) {
            Target::Uart(offset) => self.uart.read(offset),
            Target::Rtc(offset) => self.rtc.read(offset, size),
            Target::PciHost => pci_host::read(size),
            Target::Remote(device, place) => device.read(place, size, &self.gate),
            Target::Unclaimed => 0,
        }
    }

    /// Writes the low `size` (1, 2, 4 or 8) bytes of `value`.
    pub fn write(&self, gpa: u64, size: u8, value: u64) {
        match self.target(gpa) {
            Target::Uart(offset) => self.uart.write(offset, value),
            Target::Rtc(offset) => self.rtc.write(offset, size, value),
            Target::Remote(device, place) => device.write(place, size, value, &self.gate),
            Target::PciHost | Target::Unclaimed => {}
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
