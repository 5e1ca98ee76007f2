// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The smallest machine that a Debian kernel boots on: RAM, GICv3, a 16550 and PSCI.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use soft_cpu::bus::Mmio;
use soft_cpu::clock::Clock;
use soft_cpu::cluster::{Cluster, VcpuHandle};
use soft_cpu::gic::{Gic, GicConfig, TableMemory};
use soft_cpu::ram::GuestRam;
use soft_cpu::{Vcpu, VcpuParts};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

use crate::Options;
use crate::fdt;

pub const RAM: u64 = 0x4000_0000;
pub const GICD: u64 = 0x0810_0000;
pub const GICR: u64 = 0x0840_0000;
pub const GICR_LEN: u64 = 0x2_0000;
pub const UART: u64 = 0x0900_0000;
pub const UART_SPI: u32 = 1;
const INITRD_OFFSET: u64 = 0x0600_0000;
const FDT_OFFSET: u64 = 0x0580_0000;

pub struct Machine {
    handles: Vec<VcpuHandle>,
    stopped: Arc<AtomicBool>,
}

impl Machine {
    pub fn new(options: &Options) -> (Machine, Vec<Vcpu>) {
        let len = options.ram_mib << 20;
        let ranges = [(GuestAddress(RAM), len as usize)];
        let memory: Arc<GuestMemoryMmap> =
            Arc::new(GuestMemoryMmap::from_ranges(&ranges).expect("guest RAM"));
        let image = std::fs::read(&options.image).expect("the kernel image");
        memory.write_slice(&image, GuestAddress(RAM)).expect("room for the kernel");
        let initrd = options.initrd.as_ref().map(|path| {
            let content = std::fs::read(path).expect("the initrd");
            memory.write_slice(&content, GuestAddress(RAM + INITRD_OFFSET)).expect("room for the initrd");
            (RAM + INITRD_OFFSET, RAM + INITRD_OFFSET + content.len() as u64)
        });
        let tree = fdt::build(options, len, initrd);
        memory.write_slice(&tree, GuestAddress(RAM + FDT_OFFSET)).expect("room for the device tree");

        let cluster = Cluster::new(options.vcpus);
        let handles: Vec<_> = (0..options.vcpus).filter_map(|vcpu| cluster.handle(vcpu)).collect();
        let wakers = handles.clone();
        let config = GicConfig { vcpu_count: options.vcpus, spi_count: 64, its: false };
        let tables = Arc::new(Tables(Arc::clone(&memory)));
        let gic = Gic::new(config, tables, Box::new(move |vcpu| wakers[vcpu].wake())).expect("a GIC");
        let gic = Arc::new(gic);
        let stopped = Arc::new(AtomicBool::new(false));
        let console = Console { line: Vec::new(), stopped: Arc::clone(&stopped) };
        let uart = Mutex::new(Serial::new(Interrupt(Arc::clone(&gic)), console));
        let parts = VcpuParts {
            ram: GuestRam::new(memory, None).expect("page aligned RAM"),
            interrupts: Arc::clone(&gic) as _,
            mmio: Arc::new(Bus { gic, uart }),
            dirty: Arc::new(()),
            clock: Arc::new(Clock::new()),
            cluster,
        };
        let mut vcpus: Vec<_> = (0..options.vcpus).map(|index| Vcpu::new(index, parts.clone())).collect();
        vcpus[0].start(RAM, RAM + FDT_OFFSET);
        (Machine { handles, stopped }, vcpus)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for handle in &self.handles {
            handle.kick();
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

struct Bus {
    gic: Arc<Gic>,
    uart: Mutex<Serial<Interrupt, NoEvents, Console>>,
}

impl Mmio for Bus {
    fn read(&self, _vcpu: usize, gpa: u64, size: u8) -> u64 {
        match gpa {
            GICD..0x0811_0000 => self.gic.dist_read(gpa - GICD, size),
            GICR..0x0860_0000 => self.gic.redist_read(gpa - GICR, size),
            UART..0x0900_0008 => u64::from(self.uart.lock().expect("the console").read((gpa - UART) as u8)),
            _ => 0,
        }
    }

    fn write(&self, _vcpu: usize, gpa: u64, size: u8, value: u64) {
        match gpa {
            GICD..0x0811_0000 => self.gic.dist_write(gpa - GICD, size, value),
            GICR..0x0860_0000 => self.gic.redist_write(gpa - GICR, size, value),
            UART..0x0900_0008 => {
                let mut uart = self.uart.lock().expect("the console");
                uart.write((gpa - UART) as u8, value as u8).expect("standard output");
            }
            _ => {}
        }
    }
}

/// The UART's interrupt, edge triggered.
struct Interrupt(Arc<Gic>);

impl Trigger for Interrupt {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse(32 + UART_SPI);
        Ok(())
    }
}

/// Standard output, watched for the end of the guest.
struct Console {
    line: Vec<u8>,
    stopped: Arc<AtomicBool>,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let end = b"---[ end Kernel panic";
                if self.line.windows(end.len()).any(|part| part == end) {
                    self.stopped.store(true, Ordering::Release);
                }
                self.line.clear();
            } else {
                self.line.push(byte);
            }
        }
        std::io::stdout().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

struct Tables(Arc<GuestMemoryMmap>);

impl TableMemory for Tables {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        self.0.read_slice(bytes, GuestAddress(gpa)).is_ok()
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        self.0.write_slice(bytes, GuestAddress(gpa)).is_ok()
    }
}
