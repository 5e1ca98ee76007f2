// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of seventy instructions that reads and writes its physical memory as commands on its console say.
//!
//! So a test is the guest's driver: every address, table and register is the test's own, no compiler is needed, and the
//! accesses are those of a real vCPU. Hexadecimal digits make a value; a sign behind it says what to do: `@` it is the
//! address, `!` and `=` store it (64 and 32 bits), `?` and `%` print what is there; the address moves on; `*` calls the
//! code at the address with the value in x2 and prints its x6; `.` switches off. Code that is called keeps x1 and x3.
//! Encodings: Arm ARM (DDI 0487) chapter C6.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use tests::{
    guest::GuestFiles,
    vm::{Options, Vm},
};

use crate::support::{COMMAND, launch_as};

/// x1: the UART. x2: the value. x3: the address. The code behind an Image header.
const CODE: [u32; 68] = [
    0x52a1_2001, // mov w1, #0x09000000
    0xd280_0002, // mov x2, #0
    0xd280_0003, // mov x3, #0
    0x3940_1425, // next: ldrb w5, [x1, #5]
    0x3607_ffe5, // tbz w5, #0, next
    0x3940_0024, // ldrb w4, [x1]
    0x5100_c085, // sub w5, w4, #'0'
    0x7100_28bf, // cmp w5, #10
    0x5400_0283, // b.lo digit
    0x5101_5c85, // sub w5, w4, #('a' - 10)
    0x7100_40bf, // cmp w5, #16
    0x5400_0223, // b.lo digit
    0x7101_009f, // cmp w4, #'@'
    0x5400_0220, // b.eq address
    0xd503_3f9f, // dsb sy
    0x7100_849f, // cmp w4, #'!'
    0x5400_0200, // b.eq store64
    0x7100_f49f, // cmp w4, #'='
    0x5400_0200, // b.eq store32
    0x7100_fc9f, // cmp w4, #'?'
    0x5400_0200, // b.eq load64
    0x7100_949f, // cmp w4, #'%'
    0x5400_0220, // b.eq load32
    0x7100_b89f, // cmp w4, #'.'
    0x5400_04c1, // b.ne more
    0x5280_0100, // mov w0, #8
    0x72b0_8000, // movk w0, #0x8400, lsl #16: PSCI SYSTEM_OFF
    0xd400_0002, // hvc #0
    0x8b02_10a2, // digit: add x2, x5, x2, lsl #4
    0x17ff_ffe6, // b next
    0xaa02_03e3, // address: mov x3, x2
    0x1400_001d, // b clear
    0xf900_0062, // store64: str x2, [x3]
    0x1400_0019, // b add8
    0xb900_0062, // store32: str w2, [x3]
    0x1400_0018, // b add4
    0xf940_0066, // load64: ldr x6, [x3]
    0x9100_2063, // add x3, x3, #8
    0x1400_0003, // b print
    0xb940_0066, // load32: ldr w6, [x3]
    0x9100_1063, // add x3, x3, #4
    0x5280_0207, // print: mov w7, #16
    0x93c6_f0c6, // nibble: ror x6, x6, #60
    0x1200_0cc4, // and w4, w6, #15
    0x7100_289f, // cmp w4, #10
    0x1100_c088, // add w8, w4, #'0'
    0x1101_5c89, // add w9, w4, #('a' - 10)
    0x1a89_3104, // csel w4, w8, w9, lo
    0x3940_1425, // wait1: ldrb w5, [x1, #5]
    0x362f_ffe5, // tbz w5, #5, wait1
    0x3900_0024, // strb w4, [x1]
    0x7100_04e7, // subs w7, w7, #1
    0x54ff_fec1, // b.ne nibble
    0x3940_1425, // wait2: ldrb w5, [x1, #5]
    0x362f_ffe5, // tbz w5, #5, wait2
    0x5280_0144, // mov w4, #'\n'
    0x3900_0024, // strb w4, [x1]
    0x1400_0003, // b clear
    0x9100_1063, // add8: add x3, x3, #4
    0x9100_1063, // add4: add x3, x3, #4
    0xd280_0002, // clear: mov x2, #0
    0x17ff_ffc6, // b next
    0x7100_a89f, // more: cmp w4, #'*'
    0x54ff_f881, // b.ne next
    0xd508_751f, // ic iallu
    0xd503_3fdf, // isb
    0xd63f_0060, // blr x3
    0x17ff_ffe6, // b print
];

/// A machine with the monitor in it.
pub struct Monitor {
    /// The machine.
    pub vm: Vm,
    /// Commands that are still to be sent.
    pending: String,
}

impl Monitor {
    /// Starts one with the devices that `set` gives it; its files are kept in `folder`. Nothing, where a suite has to
    /// skip.
    pub fn start(folder: &Path, name: &str, set: impl FnOnce(&mut Options)) -> Option<Self> {
        let mut monitor = Self::launch(folder, name, set)?;
        monitor.vm.wait_running(COMMAND).unwrap();
        Some(monitor)
    }

    /// The same, without waiting until it runs.
    pub fn launch(folder: &Path, name: &str, set: impl FnOnce(&mut Options)) -> Option<Self> {
        let mut kernel = vec![0; 64];
        kernel[..4].copy_from_slice(&0x1400_0010_u32.to_le_bytes()); // b +64
        kernel[16..24].copy_from_slice(&(64 + 4 * CODE.len() as u64).to_le_bytes());
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel.extend(CODE.iter().flat_map(|word| word.to_le_bytes()));
        let file = folder.join("monitor");
        std::fs::write(&file, kernel).unwrap();
        // The machine wants an initramfs; this guest does not look at it.
        let files = GuestFiles { kernel: file.clone(), initramfs: file };
        let vm = launch_as(Some(files), name, |options| {
            options.memory = "64M".into();
            set(options);
        })?;
        Some(Self { vm, pending: String::new() })
    }

    /// Stores 64 bits.
    pub fn store64(&mut self, gpa: u64, value: u64) {
        write!(self.pending, "{gpa:x}@{value:x}!").unwrap();
    }

    /// Stores 32 bits.
    pub fn store32(&mut self, gpa: u64, value: u32) {
        write!(self.pending, "{gpa:x}@{value:x}=").unwrap();
    }

    /// Loads 64 bits, after all stores before.
    pub fn load64(&mut self, gpa: u64) -> u64 {
        self.load(gpa, '?')
    }

    /// Loads 32 bits, after all stores before.
    pub fn load32(&mut self, gpa: u64) -> u32 {
        u32::try_from(self.load(gpa, '%')).unwrap()
    }

    /// Calls the code at `entry`, after all stores before; what it leaves in x6.
    pub fn call(&mut self, entry: u64, argument: u64) -> u64 {
        self.ask(&format!("{entry:x}@{argument:x}*"))
    }

    fn load(&mut self, gpa: u64, sign: char) -> u64 {
        self.ask(&format!("{gpa:x}@{sign}"))
    }

    /// Sends all commands, and this one, and reads the answer.
    fn ask(&mut self, words: &str) -> u64 {
        let words = std::mem::take(&mut self.pending) + words;
        self.vm.console.send(&words).unwrap();
        let line = self.vm.console.wait_for("\n", COMMAND);
        let line = line.unwrap_or_else(|error| panic!("{error:#}: {}", self.vm.console.errors()));
        u64::from_str_radix(line.trim(), 16)
            .unwrap_or_else(|_| panic!("the monitor answers {line:?}, which is no number"))
    }

    /// Loads 32 bits until they are as wanted, and returns them.
    pub fn poll32(&mut self, gpa: u64, what: &str, wanted: impl Fn(u32) -> bool) -> u32 {
        let until = Instant::now() + COMMAND;
        loop {
            let value = self.load32(gpa);
            if wanted(value) {
                return value;
            }
            assert!(Instant::now() < until, "{what} ({gpa:#x}) stays {value:#x}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The machine is as it was: every process runs, `count` of them, and is confined as its profile says. Switches it
    /// off, and sees that nothing of it is left.
    pub fn end(mut self, count: usize) {
        let rows = self.vm.processes().unwrap();
        assert_eq!(rows.len(), count, "{rows:#?}");
        for row in rows {
            assert_eq!(row["state"], "running", "{row:#}");
            assert_eq!(row["generation"], 1, "{row:#}");
        }
        self.vm.console.send(".").unwrap();
        assert!(self.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", self.vm.console.errors());
        assert_eq!(self.vm.left_over(), [""; 0]);
    }
}
