// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The peer's messages: received bytes stay in memory until they are done with.

#![expect(unsafe_code, reason = "a system call whose result is to lie in shared memory has no safe form")]
// UNSAFETY: the call `recvmmsg` with a header in a mapping of this crate's. Nothing else here is unsafe.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::bytes::{copy_in, copy_out};
use super::control::Control;
use super::{
    CONTROL_LEN, COUNT, FLAGS, HANDED_OVER, HEARD, IN_WORDS, KEPT, ORIGIN, SLOT_WORDS, START, Transcript,
    count_of, last_errno,
};

/// The direction of the peer's messages. One thread at a time.
pub struct Heard {
    pub(super) memory: Transcript,
    pub(super) turn: usize,
}

/// A piece of the stream.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; 0 at the stream's end.
    pub len: usize,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// More came with it than there was room for.
    pub is_truncated: bool,
}

impl Heard {
    /// Receives into `piece`, if there is something. What is before `floor` in the stream is done with.
    ///
    /// # Errors
    /// The kernel's; `ENOBUFS` if what is not done with leaves no room.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        floor: u64,
        piece: &mut [u8],
    ) -> Result<Received, Errno> {
        let position = self.position();
        let origin = self.make_room(position, floor, piece.len());
        let index = usize::try_from(position.saturating_sub(origin)).unwrap_or(usize::MAX);
        let room = (IN_WORDS * 8).saturating_sub(index).min(piece.len());
        if room == 0 {
            return Err(Errno::NOBUFS);
        }
        self.fill(position, origin, floor);
        let mut control = Control::empty();
        let bytes = self.memory.received().as_ptr().cast_mut().cast::<u8>().wrapping_add(index);
        let iov = libc::iovec { iov_base: bytes.cast(), iov_len: room };
        let slot = self.slot();
        self.memory.write_header(slot, &iov, control.words.as_mut_ptr(), size_of_val(&control.words));
        // SAFETY: 1. the header lies in the mapping, which `self` keeps alive; it names `iov` and `control`, which live
        // until the return, and `room` bytes of the mapping from `index`, which were held against its length; 2. the
        // kernel writes bytes there, to whom nobody has a reference but as atomics, into `control`, and its results
        // into the header; 3. nobody else writes these: there is one author at a time.
        let done = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            let no_timeout = core::ptr::null_mut::<libc::timespec>();
            libc::syscall(
                libc::SYS_recvmmsg,
                socket.as_raw_fd(),
                self.memory.header(slot),
                1,
                flags,
                no_timeout,
            )
        };
        if done < 0 {
            return Err(last_errno());
        }
        let len = usize::try_from(count_of(self.word(COUNT))).unwrap_or(usize::MAX).min(room);
        if let Some(piece) = piece.get_mut(..len) {
            copy_out(self.memory.received(), index, piece);
        }
        let control_len = usize::try_from(self.word(CONTROL_LEN)).unwrap_or(0);
        let truncated = self.word(FLAGS) & u64::from(libc::MSG_CTRUNC.cast_unsigned()) != 0;
        Ok(Received { len, fds: control.take(control_len), is_truncated: truncated })
    }

    /// The connection is another process's from now on, or not any more.
    pub fn set_handed_over(&self, is_handed_over: bool) {
        self.memory.set_status(if is_handed_over { HANDED_OVER } else { KEPT });
    }

    /// Makes room for the next bytes. Returns where in the stream the object's first byte is then.
    pub(super) fn make_room(&mut self, position: u64, floor: u64, wanted: usize) -> u64 {
        let origin = self.word(ORIGIN);
        if floor >= position {
            // Nothing is needed any more.
            return position;
        }
        let at = |place: u64| usize::try_from(place.saturating_sub(origin)).unwrap_or(usize::MAX);
        let (first, next) = (at(floor), at(position));
        let len = next.saturating_sub(first);
        if next.saturating_add(wanted) <= IN_WORDS * 8 || len > first {
            return origin;
        }
        // To the beginning, over bytes that are done with: no life is to look for them any more, if this one dies here.
        self.fill(position, origin, floor);
        let mut needed = vec![0; len];
        copy_out(self.memory.received(), first, &mut needed);
        copy_in(self.memory.received(), 0, &needed);
        floor
    }

    pub(super) fn fill(&mut self, start: u64, origin: u64, floor: u64) {
        let slot = Transcript::other_slot(HEARD, self.turn);
        self.memory.store(slot + COUNT, 0);
        for (index, value) in (slot + START..).zip([start, origin, floor]) {
            self.memory.store(index, value);
        }
        self.turn = 1 - self.turn;
        self.memory.store(HEARD, self.turn as u64);
    }

    fn slot(&self) -> usize {
        HEARD + 1 + self.turn * SLOT_WORDS
    }

    pub(super) fn word(&self, index: usize) -> u64 {
        self.memory.load(self.slot() + index)
    }

    /// How many bytes of the stream the kernel has given.
    pub(super) fn position(&self) -> u64 {
        self.word(START).saturating_add(count_of(self.word(COUNT)))
    }
}
