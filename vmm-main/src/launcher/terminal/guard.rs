// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that outlives the launcher by a moment, to give the terminal back when the launcher could not: killed, out
//! of memory, aborted.
//!
//! It holds the terminal and the read end of a pipe, whose end of file is the launcher's end. It restores the modes
//! only if they are still those that the launcher had set: a shell that has taken its terminal back meanwhile is left
//! alone. It is in a process group of its own, so that no key and no job control reaches it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::Signal;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr,
    tcsetattr,
};
use serde::{Deserialize, Serialize};

/// The command of `bulkhead` that is this process.
pub const COMMAND: &str = "terminal-guard";

/// What raw mode changes of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    min: u8,
    time: u8,
}

impl Modes {
    /// Those in `termios`.
    pub fn of(termios: &Termios) -> Self {
        Self {
            input: termios.input_modes.bits(),
            output: termios.output_modes.bits(),
            control: termios.control_modes.bits(),
            local: termios.local_modes.bits(),
            min: termios.special_codes[SpecialCodeIndex::VMIN],
            time: termios.special_codes[SpecialCodeIndex::VTIME],
        }
    }

    fn put(&self, termios: &mut Termios) {
        termios.input_modes = InputModes::from_bits_retain(self.input);
        termios.output_modes = OutputModes::from_bits_retain(self.output);
        termios.control_modes = ControlModes::from_bits_retain(self.control);
        termios.local_modes = LocalModes::from_bits_retain(self.local);
        termios.special_codes[SpecialCodeIndex::VMIN] = self.min;
        termios.special_codes[SpecialCodeIndex::VTIME] = self.time;
    }
}

/// What the launcher tells: the modes before raw and raw, or that the terminal is not raw now.
type Told = Option<(Modes, Modes)>;

/// The launcher's end.
#[derive(Debug)]
pub struct Guard {
    process: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// Starts the process, for the terminal behind `file`.
    pub fn start(file: &File) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let (theirs, pipe) = io::pipe()?;
        let process = Command::new("/proc/self/exe")
            .arg0("bulkhead")
            .arg(COMMAND)
            .env_clear()
            .process_group(0)
            .stdin(theirs)
            .stdout(file.as_fd().try_clone_to_owned()?)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, pipe })
    }

    /// From now on the terminal has the modes `raw`, and is to get those of `before`.
    pub fn watch(&mut self, before: &Modes, raw: &Modes) {
        self.tell(&Some((*before, *raw)));
    }

    /// The terminal has been given back.
    pub fn rest(&mut self) {
        self.tell(&None);
    }

    /// Ends the process: the terminal has been given back for good.
    pub fn dismiss(mut self) {
        // Both fail only for a process that has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn tell(&mut self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            // A guard that is gone guards nothing any more; the launcher does not need it.
            let _ = self.pipe.write_all(&line);
        }
    }
}

/// The program: waits for the launcher's end, then does what is left to do.
pub fn main() -> ExitCode {
    // Changing the modes from the background is what it is for.
    sandbox::signals::block_in_thread(Signal::TTOU);
    let mut last: Told = None;
    for line in BufReader::new(io::stdin()).lines() {
        match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(told)) => last = told,
            // Half a line: the launcher died while it wrote.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let restored = last.is_none_or(|(before, raw)| restore(before, raw).is_ok());
    if restored { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn restore(before: Modes, raw: Modes) -> io::Result<()> {
    let terminal = io::stdout();
    let mut now = tcgetattr(&terminal)?;
    if Modes::of(&now) == raw {
        before.put(&mut now);
        tcsetattr(&terminal, OptionalActions::Now, &now)?;
    }
    Ok(())
}
