// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of a stream's two directions has passed: for the next life of a process that dies in the middle of a message.
//!
//! A stream has no message boundaries, and who sends a byte twice, or loses one, has lost the stream. So it must be
//! known at any moment which bytes the kernel has taken and given, and no note that a process makes after a call says
//! that: it may be killed between the two. Here the kernel makes the note itself. `sendmmsg` and `recvmmsg` write the
//! count of bytes beside the message's header, and that header lies in the memory object that outlives the process. A
//! kill takes effect behind the call, when the count is written.
//!
//! Each direction has two slots and a word that says which counts. A slot is filled, then the word is stored: that one
//! store makes a message *staged*, with the [`Marks`] of what it means, or makes room for the next bytes. Bytes to be
//! sent lie in the object until they have been, received ones until their messages are done with: the *floor*.
//!
//! As in a checkpoint, there is one author at a time, who is dead when the next life reads what it left, and as
//! untrusted as any peer: positions are checked here, messages by whoever parses them.

mod bytes;
mod control;
mod heard;
mod said;

use core::mem::offset_of;

use rustix::io::Errno;

use crate::error::Error;
use crate::shm::checkpoint::TRANSCRIPT_START;
use crate::shm::region::{Region, View};
use crate::shm::sync::AtomicU64;
use crate::shm::sync::Ordering::{Relaxed, Release};
use crate::vfio_user::MESSAGE_LEN_MAX;
use bytes::copy_out;
pub use heard::{Heard, Received};
pub use said::Said;

/// The bytes of the message that is being sent.
const OUT_WORDS: usize = MESSAGE_LEN_MAX / 8;
/// Received bytes that are still needed: the commands that may wait in a connection, and the message behind them.
/// Memory is used as far as it is written: with few commands under way that is the beginning.
const IN_WORDS: usize = (20 << 20) / 8;
/// The words before both.
const HEAD_WORDS: usize = 512;

/// The size of the part of the object.
pub(super) const TRANSCRIPT_LEN: u64 = (HEAD_WORDS + OUT_WORDS + IN_WORDS) as u64 * 8;

/// Whether there is a transcript: a word of the head.
const STATUS: usize = 0;
const NONE: u64 = 0;
const KEPT: u64 = 1;
/// Another process uses the connection.
const HANDED_OVER: u64 = 2;

/// The first word of each direction: which slot counts; and those of the slots.
const SAID: usize = 64;
const HEARD: usize = 192;
const SLOT_WORDS: usize = 32;

/// Words of a slot. It begins with a `struct mmsghdr`, of which the kernel writes the last word.
const IOV: usize = 2;
const IOV_COUNT: usize = 3;
const CONTROL: usize = 4;
const CONTROL_LEN: usize = 5;
const FLAGS: usize = 6;
const COUNT: usize = 7;
/// Where the bytes of the call begin: in the message, or in the stream.
const START: usize = 8;
/// Said: the message's length. Heard: where in the stream the first byte of the object's is.
const END: usize = 9;
const ORIGIN: usize = 9;
/// Heard: what is before it is done with.
const FLOOR: usize = 10;
/// Said: whether descriptors go with the message, and what it means.
const HAS_FDS: usize = 10;
const MARKS: usize = 11;
const MARK_WORDS: usize = 4;

const _: () = {
    assert!(size_of::<libc::mmsghdr>() == 8 * 8);
    assert!(offset_of!(libc::mmsghdr, msg_len) == 8 * COUNT);
    assert!(
        offset_of!(libc::msghdr, msg_iov) == 8 * IOV && offset_of!(libc::msghdr, msg_iovlen) == 8 * IOV_COUNT
    );
    assert!(offset_of!(libc::msghdr, msg_control) == 8 * CONTROL);
    assert!(offset_of!(libc::msghdr, msg_controllen) == 8 * CONTROL_LEN);
    assert!(offset_of!(libc::msghdr, msg_flags) == 8 * FLAGS);
    assert!(SAID + 1 + 2 * SLOT_WORDS <= HEARD && HEARD + 1 + 2 * SLOT_WORDS <= HEAD_WORDS);
    assert!(MARKS + MARK_WORDS <= SLOT_WORDS && MESSAGE_LEN_MAX.is_multiple_of(8));
    assert!(cfg!(target_endian = "little"));
};

/// What the messages that were staged so far mean, for the next life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The peer's commands that end here in the stream, or before, are answered.
    pub answered: u64,
    /// The guest's access that a request was last made for, by its number in the ring; 0: none.
    pub access: u64,
    /// The id of that request.
    pub request: u16,
    /// What it asks for, by its number in the protocol.
    pub command: u16,
    /// It has no reply.
    pub is_posted: bool,
    /// About the last id of a request, if there was one.
    pub last_id: u16,
}

/// What a life has left.
#[derive(Debug)]
pub struct Left {
    /// What its messages meant.
    pub marks: Marks,
    /// Where in the stream `heard` begins: at the beginning of a message.
    pub floor: u64,
    /// What was received since, and may not be done with.
    pub heard: Vec<u8>,
}

/// The memory, of which nothing was read or written yet.
#[derive(Clone)]
pub struct Transcript {
    words: View<[AtomicU64]>,
}

impl Transcript {
    /// Views the part behind checkpoint and journal in this memory object.
    ///
    /// # Errors
    /// A violation if it has another size.
    pub fn attach(region: &Region) -> Result<Self, Error> {
        let start = usize::try_from(TRANSCRIPT_START).unwrap_or(usize::MAX);
        Ok(Self { words: region.view_slice(start, HEAD_WORDS + OUT_WORDS + IN_WORDS)? })
    }

    /// Begins one, of a stream that is at `position` and has nothing under way.
    #[must_use]
    pub fn begin(self, position: u64) -> (Said, Heard) {
        self.set_status(NONE);
        let (mut said, mut heard) = self.halves();
        said.fill(0, 0, false, &Marks::default());
        heard.fill(position, position, position);
        said.memory.set_status(KEPT);
        (said, heard)
    }

    /// Goes on with what a life has left that is over.
    ///
    /// # Errors
    /// Why the stream cannot be followed.
    pub fn resume(self) -> Result<(Said, Heard, Left), &'static str> {
        match self.status() {
            KEPT => {}
            HANDED_OVER => return Err("the connection to its server was another process's"),
            _ => return Err("its server was active before the guest began, and the connection was not kept"),
        }
        let (said, heard) = self.halves();
        let (marks, end) = (said.marks(), said.word(END));
        if said.position() > end || end > MESSAGE_LEN_MAX as u64 {
            return Err("more of a message was sent than there is of it");
        }
        let [position, floor, origin] = [heard.position(), heard.word(FLOOR), heard.word(ORIGIN)];
        let held = position.checked_sub(floor).and_then(|len| usize::try_from(len).ok());
        let start = floor.checked_sub(origin).and_then(|start| usize::try_from(start).ok());
        let (Some(len), Some(start)) = (held, start) else { return Err("the stream's positions cross") };
        if start.checked_add(len).is_none_or(|end| end > IN_WORDS * 8) {
            return Err("more was received than there is room for");
        }
        let mut bytes = vec![0; len];
        copy_out(heard.memory.received(), start, &mut bytes);
        Ok((said, heard, Left { marks, floor, heard: bytes }))
    }

    fn halves(self) -> (Said, Heard) {
        let turn = |of: usize| usize::from(self.load(of) & 1 == 1);
        let (said, heard) = (turn(SAID), turn(HEARD));
        (Said { memory: self.clone(), turn: said }, Heard { memory: self, turn: heard })
    }

    /// Where the message is that is being sent.
    fn message(&self) -> &[AtomicU64] {
        self.words.get(HEAD_WORDS..HEAD_WORDS + OUT_WORDS).unwrap_or_default()
    }

    /// Where received bytes are.
    fn received(&self) -> &[AtomicU64] {
        self.words.get(HEAD_WORDS + OUT_WORDS..).unwrap_or_default()
    }

    fn other_slot(of: usize, turn: usize) -> usize {
        of + 1 + (1 - turn) * SLOT_WORDS
    }

    fn status(&self) -> u64 {
        self.load(STATUS)
    }

    fn set_status(&self, status: u64) {
        self.store(STATUS, status);
    }

    fn load(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Relaxed))
    }

    /// Behind all that this thread has stored before.
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Release);
        }
    }

    /// A header for the kernel, in the slot that begins at this word: one piece of memory, and a control buffer.
    fn write_header(&self, slot: usize, iov: &libc::iovec, control: *mut u64, control_len: usize) {
        let address = |pointer: *const ()| pointer.expose_provenance() as u64;
        let words = [
            0,
            0,
            address(std::ptr::from_ref(iov).cast()),
            1,
            address(control.cast()),
            control_len as u64,
            0,
        ];
        for (index, value) in (slot..).zip(words) {
            self.store(index, value);
        }
    }

    fn header(&self, slot: usize) -> *mut libc::mmsghdr {
        let header = self.words.get(slot..slot + 8).unwrap_or_default();
        header.as_ptr().cast_mut().cast()
    }
}

impl core::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Transcript").finish_non_exhaustive()
    }
}

/// The kernel's count is the low half of its word.
fn count_of(word: u64) -> u64 {
    word & u64::from(u32::MAX)
}

fn last_errno() -> Errno {
    let number = std::io::Error::last_os_error().raw_os_error();
    number.map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests;
