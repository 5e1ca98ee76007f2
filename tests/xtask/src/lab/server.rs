// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The emulated server: its hardware as a command line, and one run of it under a deadline.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use ::lab::{places as inside, report::Record};
use ::tests::{command::find, tools::Ready};
use anyhow::{Context, Result, bail};

/// Two cores, as the machine that emulates them is likely to have; the cheapest CPU to emulate that has EL2.
const HARDWARE: [&str; 15] = [
    "-M",
    "virt,virtualization=on,gic-version=3,iommu=smmuv3",
    "-cpu",
    "neoverse-n1",
    "-smp",
    "2",
    "-m",
    "4G",
    "-accel",
    "tcg,thread=multi",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
    "-no-user-config",
];

/// The devices that scenarios use: the teaching device, whose DMA a test can steer, and a network card.
const DEVICES: [&str; 6] =
    ["-device", "edu,dma_mask=0xffffffffffff", "-device", "e1000e,romfile=", "-device", "virtio-rng-pci"];

/// Images of the server's NVMe controllers: new and empty in every run.
const NVME_COUNT: usize = 2;
const NVME_LEN: u64 = 256 << 20;

/// How often the records are looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long a server that was asked to end may take until it is killed.
const END: Duration = Duration::from_secs(20);

/// The files that a server boots from.
pub struct Server<'a> {
    pub emulator: &'a Ready,
    pub firmware: &'a Path,
    pub kernel: &'a Path,
    pub disk: &'a Path,
    /// An archive with tables that replace the firmware's.
    pub tables: Option<&'a Path>,
    /// Kernel parameters that make this kind of server, with a space behind each.
    pub kernel_parameters: &'static str,
    /// Events of the emulator to record, as a pattern.
    pub trace: Option<&'a str>,
    /// Where its logs go.
    pub logs: PathBuf,
}

impl Server<'_> {
    /// What the machine is, apart from files: whatever changes its tables changes this.
    pub fn hardware() -> String {
        [&HARDWARE[..], &DEVICES[..]].concat().join(" ")
    }

    /// The emulator's command. `parameters` end the kernel's command line.
    pub fn command(&self, parameters: &str, shell: bool) -> Result<Command> {
        fs::create_dir_all(&self.logs)
            .with_context(|| format!("{} could not be made", self.logs.display()))?;
        let mut command = self.emulator.emulator();
        command.args(HARDWARE).args(DEVICES);
        command.arg("-bios").arg(self.firmware).arg("-kernel").arg(self.kernel);
        if let Some(tables) = self.tables {
            command.arg("-initrd").arg(tables);
        }
        let quiet = if shell { "" } else { "quiet " };
        let own = self.kernel_parameters;
        command.arg("-append").arg(format!(
            "console=ttyAMA0 {quiet}root=/dev/vda rw rootwait init=/sbin/init {own}{parameters}"
        ));
        if let Some(events) = self.trace {
            command.args(["-trace", events, "-D"]).arg(self.logs.join("trace.log"));
        }
        drive(&mut command, "root", self.disk, "snapshot=on");
        command.args(["-device", "virtio-blk-pci,drive=root"]);
        for index in 0..NVME_COUNT {
            let image = self.logs.join(format!("nvme{index}.img"));
            let file =
                File::create(&image).with_context(|| format!("{} could not be made", image.display()))?;
            file.set_len(NVME_LEN).context("the size of an NVMe image")?;
            drive(&mut command, &format!("nvme{index}"), &image, "cache=unsafe");
            // Doorbells are registers, as on most controllers; why: `tests/lab/DESIGN.md`.
            command.arg("-device").arg(format!("nvme,drive=nvme{index},serial=lab{index},dbcs=off"));
        }
        command.args(["-device", "virtio-serial-pci"]);
        for (id, name, file) in [
            ("records", inside::PORT_RECORDS, self.records()),
            ("log", inside::PORT_LOG, self.logs.join("kernel.log")),
        ] {
            command.arg("-chardev").arg(format!("file,id={id},path={}", comma(&file)));
            command.arg("-device").arg(format!("virtserialport,chardev={id},name={name}"));
        }
        if shell {
            command.args(["-serial", "mon:stdio"]);
        } else {
            command.arg("-serial").arg(format!("file:{}", comma(&self.logs.join("console.log"))));
        }
        Ok(command)
    }

    fn records(&self) -> PathBuf {
        self.logs.join("records.jsonl")
    }

    /// Runs the server until it powers off or `limit` has passed; `each` gets every record as it comes.
    pub fn run(&self, parameters: &str, limit: Duration, mut each: impl FnMut(Record)) -> Result<()> {
        let mut command = dying_with_us(self.command(parameters, false)?);
        let mut records = Records::of(self.records())?;
        let errors = self.logs.join("emulator.log");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).context("the emulator's log")?);
        let mut running = Running { child: command.spawn().context("the emulator did not start")? };
        let deadline = Instant::now() + limit;
        loop {
            let ended = running.ended()?;
            records.read()?.into_iter().for_each(&mut each);
            match ended {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let said = fs::read_to_string(&errors).unwrap_or_default();
                    bail!("the emulator ended with {status}: {}", said.trim());
                }
                None if Instant::now() >= deadline + END => {
                    bail!(
                        "the server did not end within {} s and was killed; its console: {}",
                        (limit + END).as_secs(),
                        self.logs.join("console.log").display()
                    );
                }
                None => thread::sleep(POLL),
            }
        }
    }
}

/// `command`, ended by the kernel when this process ends in whatever way, where util-linux can arrange it.
fn dying_with_us(command: Command) -> Command {
    let Some(setpriv) = find("setpriv") else { return command };
    let mut wrapped = Command::new(setpriv);
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        wrapped.env(name, value.unwrap_or_default());
    }
    wrapped
}

/// The emulator; it does not outlive this value.
struct Running {
    child: Child,
}

impl Running {
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("the emulator cannot be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that ended already is not there to be killed: nothing else can fail here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The records in a file that grows.
struct Records {
    file: File,
    /// The start of a line whose end has not been written yet.
    rest: Vec<u8>,
}

impl Records {
    fn of(path: PathBuf) -> Result<Self> {
        // What an earlier run left must not speak for this one.
        File::create(&path).with_context(|| format!("{} could not be made", path.display()))?;
        let mut file = File::open(&path).with_context(|| format!("{} could not be read", path.display()))?;
        file.seek(SeekFrom::Start(0)).context("the records")?;
        Ok(Self { file, rest: Vec::new() })
    }

    fn read(&mut self) -> Result<Vec<Record>> {
        self.file.read_to_end(&mut self.rest).context("the records")?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().filter_map(Record::parse).collect())
    }
}

fn drive(command: &mut Command, id: &str, file: &Path, more: &str) {
    command.arg("-drive").arg(format!("if=none,id={id},format=raw,file={},{more}", comma(file)));
}

/// A path in the emulator's list of options, where a comma is written twice.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
