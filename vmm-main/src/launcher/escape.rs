// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The console's escape: `Ctrl-A` and a key that leaves the console, `Ctrl-A Ctrl-A` sends one `Ctrl-A`, `Ctrl-A h`
//! helps.
//!
//! A pure parser over the bytes of the keyboard; an escape may be cut anywhere between two reads. It works on
//! terminals only: bytes from a file or pipe go to the guest as they are.

/// The key that begins an escape.
pub const PREFIX: u8 = 0x01;

/// How a console is left.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// The key after the prefix, in lower case.
    leave: u8,
    /// What `Ctrl-A h` prints.
    pub help: &'static str,
}

/// Those of `bulkhead run`.
pub const STOP: Keys =
    Keys { leave: b'x', help: "Ctrl-A x: stop the VM, Ctrl-A Ctrl-A: send Ctrl-A, Ctrl-A h: this help" };
/// Those of `bulkhead console`.
pub const DETACH: Keys = Keys {
    leave: b'd',
    help: "Ctrl-A d: leave the console, the VM runs on, Ctrl-A Ctrl-A: send Ctrl-A, Ctrl-A h: this help",
};

/// The result of one chunk of input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Bytes for the guest; those behind the key that leaves are not among them.
    pub bytes: Vec<u8>,
    /// The user leaves the console.
    pub leave: bool,
    /// The user asked for help.
    pub help: bool,
}

/// Remembers whether the last byte was the prefix.
#[derive(Debug)]
pub struct Escape {
    /// How it is left.
    pub keys: Keys,
    after_prefix: bool,
}

impl Escape {
    /// Nothing was typed yet.
    pub const fn new(keys: Keys) -> Self {
        Self { keys, after_prefix: false }
    }

    /// Parses the next chunk of input.
    pub fn feed(&mut self, input: &[u8]) -> Parsed {
        let mut parsed = Parsed::default();
        for &byte in input {
            match (std::mem::take(&mut self.after_prefix), byte) {
                (false, PREFIX) => self.after_prefix = true,
                (false, _) | (true, PREFIX) => parsed.bytes.push(byte),
                (true, key) if key.to_ascii_lowercase() == self.keys.leave => {
                    parsed.leave = true;
                    return parsed;
                }
                // An unknown key shows the help and is not sent: it was not meant for the guest.
                (true, _) => parsed.help = true,
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests;
