// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program with a guest behind its standard input and output, driven as a person at a terminal would.
//!
//! Every wait has a deadline and ends early when the program does. What the program wrote is kept whole, so
//! that a failure can show it. Terminal control sequences and carriage returns are taken out before anything
//! is compared. Callers: the demo, the benches, the suites that boot a guest.

mod plain;

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use self::plain::Plain;
use crate::guest;

/// How often a wait for the program's end looks again: it has no event to wait on.
const EXIT_POLL: Duration = Duration::from_millis(10);

/// A running program and all it has written.
pub struct Console {
    child: Child,
    input: ChildStdin,
    screen: Arc<Screen>,
    /// Where in the text the next wait begins.
    cursor: usize,
    /// Numbers the commands, so that no answer is taken for another's.
    command_count: u32,
}

/// What a command in the guest wrote, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The lines between the command and the next prompt.
    pub output: String,
    /// The shell's `$?`.
    pub code: i32,
}

/// Filled by the reader threads.
#[derive(Default)]
struct Screen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Standard output, without control sequences.
    text: String,
    /// Standard error, as it came.
    errors: String,
    /// True once standard output has ended.
    ended: bool,
}

impl Console {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("{} did not start", command.get_program().to_string_lossy()))?;
        let screen = Arc::new(Screen::default());
        if let Some(output) = child.stdout.take() {
            let screen = Arc::clone(&screen);
            thread::spawn(move || screen.read_output(output));
        }
        if let Some(errors) = child.stderr.take() {
            let screen = Arc::clone(&screen);
            thread::spawn(move || screen.read_errors(errors));
        }
        let input = child.stdin.take().context("the program has no input")?;
        Ok(Self { child, input, screen, cursor: 0, command_count: 0 })
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has written `text`, and returns what came before it since the last wait.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for_any(&[text], limit).map(|(_, before)| before)
    }

    /// The same for whichever of `texts` comes first, which is returned too.
    pub fn wait_for_any<'t>(&mut self, texts: &[&'t str], limit: Duration) -> Result<(&'t str, String)> {
        let deadline = Instant::now() + limit;
        let mut state = self.screen.lock();
        loop {
            let unread = state.text.get(self.cursor..).unwrap_or_default();
            let first = texts.iter().filter_map(|text| Some((unread.find(text)?, *text))).min();
            if let Some((offset, text)) = first {
                let before = unread.get(..offset).unwrap_or_default().to_string();
                self.cursor += offset + text.len();
                return Ok((text, before));
            }
            let wanted = texts.join("\" or \"");
            if state.ended {
                bail!("the program ended before it wrote \"{wanted}\"");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("\"{wanted}\" did not come within {:.1} s", limit.as_secs_f64());
            }
            state = self.screen.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types `text`, as it is.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let input = &mut self.input;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).context("the program takes no input")
    }

    /// Waits for the shell's first prompt and keeps kernel messages off the console from there on.
    pub fn shell(&mut self, limit: Duration) -> Result<()> {
        self.wait_for(guest::PROMPT, limit)?;
        self.run("dmesg -n 1", limit)?;
        Ok(())
    }

    /// Runs a command in the guest's shell. It must be one line.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        self.command_count += 1;
        let number = self.command_count;
        // The shell echoes what is typed, where the number is still `$((1))`: only the answer has it plain.
        self.send(&format!(
            "echo \"<begin $(({number}))>\"; {command}; echo \"<end $(({number})) code $?>\"\n"
        ))?;
        self.wait_for(&format!("<begin {number}>\n"), limit)
            .with_context(|| format!("the guest's shell did not take `{command}`"))?;
        let output = self
            .wait_for(&format!("<end {number} code "), limit)
            .with_context(|| format!("`{command}` in the guest did not end"))?;
        let code = self.wait_for(">", limit)?;
        let code =
            code.parse().with_context(|| format!("exit code of `{command}` in the guest is {code:?}"))?;
        Ok(Answer { output: output.trim_end_matches('\n').to_string(), code })
    }

    /// What the guest prints for a command that ends well.
    pub fn output(&mut self, command: &str, limit: Duration) -> Result<String> {
        let Answer { output, code } = self.run(command, limit)?;
        ensure!(code == 0, "`{command}` ended with code {code} in the guest: {output}");
        Ok(output)
    }

    /// Whether the program has written its last: it has ended, and so have those that it gave its output to.
    pub fn has_ended(&self) -> bool {
        self.screen.lock().ended
    }

    /// Waits for the program to end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().context("the program cannot be waited for")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the program did not end within {:.1} s", limit.as_secs_f64());
            }
            thread::sleep(EXIT_POLL);
        }
    }

    /// All that was written to standard output so far.
    pub fn transcript(&self) -> String {
        self.screen.lock().text.clone()
    }

    /// All that was written to standard error so far.
    pub fn errors(&self) -> String {
        self.screen.lock().errors.clone()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // A program that ended already is not there to be killed: nothing else can fail here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Screen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_output(&self, mut from: impl Read) {
        let mut plain = Plain::default();
        read_all(&mut from, |bytes| {
            let text = plain.filter(bytes);
            self.lock().text.push_str(&text);
            self.changed.notify_all();
        });
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn read_errors(&self, mut from: impl Read) {
        read_all(&mut from, |bytes| self.lock().errors.push_str(&String::from_utf8_lossy(bytes)));
    }
}

/// Reads until the other end closes.
fn read_all(from: &mut impl Read, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 {
            return;
        }
        each(buffer.get(..len).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
