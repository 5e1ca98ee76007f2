// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! This end's messages: one at a time is staged, and sent as far as the socket takes it.

#![expect(unsafe_code, reason = "a system call whose result is to lie in shared memory has no safe form")]
// UNSAFETY: the call `sendmmsg` with a header in a mapping of this crate's. Nothing else here is unsafe.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::bytes::copy_in;
use super::control::Control;
use super::{
    COUNT, END, HAS_FDS, MARKS, Marks, OUT_WORDS, SAID, SLOT_WORDS, START, Transcript, count_of, last_errno,
};

/// The direction of this end's messages. One thread at a time.
pub struct Said {
    pub(super) memory: Transcript,
    pub(super) turn: usize,
}

impl Said {
    /// Stages a message: from now on the next life finishes it, and it means `marks`. The one before is sent.
    pub fn stage(&mut self, parts: &[&[u8]], has_fds: bool, marks: &Marks) {
        let mut len = 0;
        for part in parts {
            copy_in(self.memory.message(), len, part);
            len = len.saturating_add(part.len());
        }
        self.fill(0, len as u64, has_fds, marks);
    }

    /// Takes back a message of which nothing was sent.
    pub fn withdraw(&mut self, marks: &Marks) {
        self.fill(0, 0, false, marks);
    }

    /// The same messages mean something else.
    pub fn note(&mut self, marks: &Marks) {
        self.fill(self.position(), self.word(END), self.word(HAS_FDS) != 0, marks);
    }

    /// Whether a part of the message was sent, or all of it.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.position() > 0
    }

    /// Whether all of it was.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position() >= self.word(END)
    }

    /// Whether descriptors go with its first byte.
    #[must_use]
    pub fn has_fds(&self) -> bool {
        self.word(HAS_FDS) != 0
    }

    /// Sends what is left of the message, as much as the socket takes; the descriptors go with its first byte.
    ///
    /// # Errors
    /// The kernel's; nothing was sent then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let (start, end) = (self.position(), self.word(END));
        if start != self.word(START) {
            // The slot's count is taken: the next call has one of its own.
            self.fill(start, end, self.has_fds(), &self.marks());
        }
        let [start, end] =
            [start, end].map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(OUT_WORDS * 8));
        let mut control = Control::empty();
        let control_len = if start == 0 { control.put(fds) } else { 0 };
        let bytes = self.memory.message().as_ptr().cast_mut().cast::<u8>().wrapping_add(start);
        let iov = libc::iovec { iov_base: bytes.cast(), iov_len: end.saturating_sub(start) };
        let slot = self.slot();
        self.memory.write_header(slot, &iov, control.words.as_mut_ptr(), control_len);
        // SAFETY: 1. the header lies in the mapping, which `self` keeps alive; it names `iov` and `control`, which live
        // until the return, and bytes of the mapping between `start` and `end`, which were held against its length;
        // 2. the kernel reads these, and writes the count at the header's end, which is an atomic word of the mapping;
        // 3. nobody else writes the header: there is one author at a time.
        let done = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::syscall(libc::SYS_sendmmsg, socket.as_raw_fd(), self.memory.header(slot), 1, flags)
        };
        if done < 0 { Err(last_errno()) } else { Ok(()) }
    }

    pub(super) fn marks(&self) -> Marks {
        let [answered, access, request, ids] = core::array::from_fn(|index| self.word(MARKS + index));
        let [r0, r1, c0, c1, posted, ..] = request.to_le_bytes();
        let [i0, i1, ..] = ids.to_le_bytes();
        Marks {
            answered,
            access,
            request: u16::from_le_bytes([r0, r1]),
            command: u16::from_le_bytes([c0, c1]),
            is_posted: posted != 0,
            last_id: u16::from_le_bytes([i0, i1]),
        }
    }

    /// Fills the slot that does not count, and has it count.
    pub(super) fn fill(&mut self, start: u64, end: u64, has_fds: bool, marks: &Marks) {
        let Marks { answered, access, request, command, is_posted, last_id } = *marks;
        let request = u64::from(request) | u64::from(command) << 16 | u64::from(is_posted) << 32;
        let slot = Transcript::other_slot(SAID, self.turn);
        let (fixed, marks) = ([start, end, has_fds.into()], [answered, access, request, last_id.into()]);
        self.memory.store(slot + COUNT, 0);
        for (index, value) in (slot + START..).zip(fixed.into_iter().chain(marks)) {
            self.memory.store(index, value);
        }
        self.turn = 1 - self.turn;
        self.memory.store(SAID, self.turn as u64);
    }

    fn slot(&self) -> usize {
        SAID + 1 + self.turn * SLOT_WORDS
    }

    pub(super) fn word(&self, index: usize) -> u64 {
        self.memory.load(self.slot() + index)
    }

    /// How many bytes of the message the kernel has taken.
    pub(super) fn position(&self) -> u64 {
        self.word(START).saturating_add(count_of(self.word(COUNT)))
    }
}
