// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both ends of vfio-user against third-party ones: a foreign server's device behind our vSMMU, and QEMU's guest on our
//! NVMe controller.
//!
//! Parts that are not on this machine are fetched by `cargo xtask interop --fetch`; without them a scenario is skipped.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

#[expect(dead_code, reason = "this suite starts machines with foreign devices only")]
mod support;

use std::path::Path;

use tests::{
    SEEN, SKIPPED,
    console::Console,
    disk,
    foreign::{self, Nvme},
    guest::{GuestFiles, USER_SPACE_MARK},
    tools::VFIO_USER_QEMU,
};

use self::support::{BOOT, COMMAND, launch_as, programs};

const DISK: &str = "nvme0n1";
/// Enough for hundreds of commands, done in seconds.
const WRITTEN_MIB: u64 = 32;

/// `-device` of a vfio-user server at a path.
fn device(socket: &Path) -> String {
    format!(r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}}}}"#, socket.display())
}

/// QEMU with our controller as its guest's disk, its memory as `memory` says, or nothing, after saying why.
fn qemu(socket: &Path, memory: &[&str]) -> Option<Console> {
    let Some(qemu) = VFIO_USER_QEMU.installed() else {
        println!("{SKIPPED}{}", VFIO_USER_QEMU.missing());
        return None;
    };
    let Some(files) = GuestFiles::cached() else {
        println!("{SKIPPED}the guest's files are not there (`cargo xtask guest` brings them)");
        return None;
    };
    println!("{}", qemu.version().unwrap());
    let mut command = qemu.boot(&files, "");
    // A reboot is what the last option says.
    command.args(memory).arg("-device").arg(device(socket)).args(["-action", "reboot=reset"]);
    let mut console = Console::start(&mut command).unwrap();
    shell(&mut console);
    Some(console)
}

/// Waits for the shell of a guest that boots, for the first time or again.
fn shell(console: &mut Console) {
    let booted = console.wait_for(USER_SPACE_MARK, BOOT).and_then(|_| console.shell(BOOT));
    assert!(booted.is_ok(), "{:#}: {}", booted.unwrap_err(), console.errors());
}

fn power_off(mut console: Console) {
    console.send("poweroff -f\n").unwrap();
    assert!(console.wait_exit(COMMAND).unwrap().success(), "{}", console.errors());
    // A device without the interrupt for errors is worth a warning to QEMU.
    let errors = console.errors();
    let complaint = errors.lines().find(|line| !line.contains("Could not enable error recovery"));
    assert_eq!(complaint, None);
}

/// Memory that QEMU shares with its devices by descriptor.
const SHARED: [&str; 4] =
    ["-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-machine", "memory-backend=ram"];

#[test]
fn qemu_guest_keeps_a_file_system_on_our_nvme_over_a_reboot_and_a_second_client() {
    let Some(programs) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (disk::image(&folder, 4 * WRITTEN_MIB).unwrap(), folder.path().join("nvme.sock"));
    let nvme = Nvme::start(&programs, &image, &socket).unwrap();
    let Some(mut console) = qemu(&socket, &SHARED) else { return };
    assert!(console.run("grep nvme0q1 /proc/interrupts", COMMAND).unwrap().output.contains("ITS-MSI"));
    let sum = disk::fill(&mut console, DISK, WRITTEN_MIB, COMMAND).unwrap();

    let again = "mkdir -p /mnt && mount -t ext4 /dev/nvme0n1 /mnt && md5sum </mnt/data; umount /mnt";
    console.send("reboot -f\n").unwrap();
    shell(&mut console);
    assert!(console.run(again, COMMAND).unwrap().output.starts_with(&sum), "after a reset by the client");
    power_off(console);

    let Some(mut console) = qemu(&socket, &SHARED) else { return };
    assert!(console.run(again, COMMAND).unwrap().output.starts_with(&sum), "with a second client");
    power_off(console);
    assert_eq!(nvme.end(COMMAND), [""; 0]);
    disk::check_from_outside(&image, &sum).unwrap();
    println!("{SEEN}32 MiB read back, after a reset by QEMU, by a second QEMU, and from outside");
}

#[test]
fn qemu_guest_keeps_a_file_system_on_our_nvme_that_reaches_its_memory_by_messages() {
    let Some(programs) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (disk::image(&folder, 4 * WRITTEN_MIB).unwrap(), folder.path().join("nvme.sock"));
    let nvme = Nvme::start(&programs, &image, &socket).unwrap();
    // Memory of its own, which has no descriptor to pass.
    let Some(mut console) = qemu(&socket, &[]) else { return };
    let sum = disk::fill(&mut console, DISK, WRITTEN_MIB, COMMAND).unwrap();
    power_off(console);
    assert_eq!(nvme.end(COMMAND), [""; 0]);
    disk::check_from_outside(&image, &sum).unwrap();
    println!("{SEEN}32 MiB read back, and from outside, without a window that is mapped");
}

#[test]
fn device_of_a_foreign_server_is_a_function_of_our_guest() {
    let Some(program) = foreign::program() else {
        println!("{SKIPPED}{}", foreign::missing());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut server = foreign::Server::start(&program, folder.path()).unwrap();
    let socket = server.socket().to_path_buf();
    let launched = launch_as(GuestFiles::cached(), "foreign", |options| options.vfio_user = vec![socket]);
    let Some(mut vm) = launched else { return };
    vm.console.shell(BOOT).unwrap();
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    output("cd /sys/bus/pci/devices/0000:00:01.0");
    assert_eq!(output("cat vendor device class"), "0x494f\n0x0dc8\n0xffff00", "{}", server.log());
    assert_eq!(output("od -An -tx2 -N4 config").trim(), "494f 0dc8");

    // What the guest writes arrives there, and what a function of ours keeps to itself is kept.
    let command_writes =
        |server: &foreign::Server| server.log().matches("write region = 7 offset = 4").count();
    let before = command_writes(&server);
    output(r"printf '\017\004' | dd of=config bs=2 seek=2 count=1 conv=notrunc 2>/dev/null");
    assert_eq!(output("od -An -tx2 -j4 -N2 config").trim(), "0407");
    assert_eq!(command_writes(&server), before + 1, "{}", server.log());

    // Its one register is I/O: every third read of it is 1, and signals INTx, which is disabled here.
    assert_eq!(output("sed -n 3p resource | cut -c1-37"), "0x0000000000008000 0x00000000000080ff");
    output("echo 1 > enable");
    let mut read = || output("dd if=resource2 bs=1 count=1 2>/dev/null | od -An -tx1").trim().to_string();
    assert_eq!([(); 3].map(|()| read()), ["00", "00", "01"], "{}", server.log());
    assert_eq!(output("od -An -tx1 -j6 -N1 config").trim(), "08", "interrupt status");

    // It has no states that it could be stopped in, and so stays as it is.
    assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
    assert!(vm.control_json("resume").unwrap().contains("\"running\""));
    assert!(vm.console.run("cat vendor", COMMAND).unwrap().output.contains("0x494f"));
    assert!(!vm.console.errors().contains("is lost"), "{}", vm.console.errors());
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    assert!(server.wait_exit().unwrap().success(), "{}", server.log());
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    println!("{SEEN}494f:0dc8 class ffff00, its I/O register counts, its interrupt is pending");
}

#[test]
fn io_bar_of_a_reference_sample_is_driven_by_our_guest() {
    let program = match foreign::sample() {
        Ok(program) => program,
        Err(why) => {
            println!("{SKIPPED}{why}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let server = foreign::Server::start_sample(&program, folder.path()).unwrap();
    let socket = server.socket().to_path_buf();
    let launched = launch_as(GuestFiles::cached(), "sample", |options| options.vfio_user = vec![socket]);
    let Some(mut vm) = launched else { return };
    vm.console.shell(BOOT).unwrap();
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    output("cd /sys/bus/pci/devices/0000:00:01.0");
    assert_eq!(output("cat vendor device"), "0x494f\n0x0dc8", "{}", server.log());
    // BAR 2, 256 bytes of I/O, in the window of the host bridge; and the pin.
    let resource = output("sed -n 3p resource");
    let fields: Vec<&str> = resource.split_whitespace().collect();
    assert_eq!(fields[..2], ["0x0000000000008000", "0x00000000000080ff"], "{resource}");
    assert!(output("cat /proc/ioports").contains("00008000-000080ff : 0000:00:01.0"));
    assert_eq!(output("od -An -tx1 -j61 -N1 config").trim(), "01", "INTA");
    let inputs = |output: &mut dyn FnMut(&str) -> String| {
        output("dd if=resource2 bs=1 skip=1 count=1 2>/dev/null | od -An -tx1").trim().to_string()
    };
    output("echo 1 > enable");
    assert_eq!(output("od -An -tx1 -j4 -N1 config").trim().chars().last(), Some('1'), "I/O space is enabled");
    assert_eq!(inputs(&mut output), "ff", "{}", server.log());
    output(r"printf '\001' | dd of=resource2 bs=1 count=1 conv=notrunc 2>/dev/null");
    assert_eq!(inputs(&mut output), "fe", "{}", server.log());
    output("echo 0 > enable");
    assert!(vm.control_json("pause").unwrap().contains("\"paused\""));
    assert!(vm.control_json("resume").unwrap().contains("\"running\""));
    let mut output = |command: &str| vm.console.run(command, COMMAND).unwrap().output;
    output("echo 1 > enable");
    assert_eq!(inputs(&mut output), "fe", "{}", server.log());
    assert!(!vm.console.errors().contains("cannot be used"), "{}", vm.console.errors());
    vm.power_off(COMMAND).unwrap();
    assert_eq!(vm.left_over(), [""; 0]);
    assert_eq!(server.log().matches("device reset by client").count(), 1, "{}", server.log());
    println!("{SEEN}494f:0dc8, I/O at 8000-80ff driven by inb and outb, over a pause");
}
