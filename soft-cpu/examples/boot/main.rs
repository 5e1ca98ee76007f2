// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots a Linux kernel on the software CPU in one process, for measuring and for finding out what a guest does.
//!
//! `cargo run --release --example boot -- IMAGE [--initrd FILE] [--vcpus N] [--ram MIB] [--seconds S] [--append TEXT]`
//! It ends when the guest powers off or panics (seen on the console), or after the time given.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a tool for developers: it stops at the first surprise"
)]

mod fdt;
mod machine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use soft_cpu::Exit;

use machine::Machine;

/// What the command line asks for.
pub struct Options {
    image: String,
    initrd: Option<String>,
    vcpus: usize,
    ram_mib: u64,
    seconds: u64,
    append: String,
}

fn main() {
    let options = Options::parse();
    let started = Instant::now();
    let (machine, vcpus) = Machine::new(&options);
    let machine = Arc::new(machine);
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|mut vcpu| {
            let machine = Arc::clone(&machine);
            std::thread::spawn(move || {
                let exit = vcpu.run();
                if exit != Exit::Kicked {
                    machine.stop();
                }
                (exit, vcpu.retired())
            })
        })
        .collect();
    let deadline = started + Duration::from_secs(options.seconds);
    while !machine.is_stopped() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    machine.stop();
    let wall = started.elapsed().as_secs_f64();
    let mut retired = 0;
    for (index, thread) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok((exit, count)) => {
                eprintln!("vcpu {index}: {exit:?}, {:.3} G operations", count as f64 / 1e9);
                retired += count;
            }
            Err(_) => eprintln!("vcpu {index}: thread panicked"),
        }
    }
    eprintln!("{wall:.2} s, {:.0} MIPS of wall time", retired as f64 / wall / 1e6);
}

impl Options {
    fn parse() -> Options {
        let mut options = Options {
            image: String::new(),
            initrd: None,
            vcpus: 1,
            ram_mib: 256,
            seconds: 60,
            append: "console=ttyS0 earlycon=uart8250,mmio,0x9000000 cryptomgr.notests=1".to_owned(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().expect("the option needs a value");
            match argument.as_str() {
                "--initrd" => options.initrd = Some(value()),
                "--vcpus" => options.vcpus = value().parse().expect("a number of vCPUs"),
                "--ram" => options.ram_mib = value().parse().expect("a number of MiB"),
                "--seconds" => options.seconds = value().parse().expect("a number of seconds"),
                "--append" => options.append = format!("{} {}", options.append, value()),
                _ => options.image = argument,
            }
        }
        assert!(!options.image.is_empty(), "usage: boot IMAGE [options]");
        options
    }
}
