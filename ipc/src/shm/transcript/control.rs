// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptors beside a message, as the kernel takes and gives them.

#![expect(unsafe_code, reason = "the kernel returns descriptors as numbers")]
// UNSAFETY: taking ownership of descriptors that the kernel has just made. Nothing else here is unsafe.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::vfio_user::FDS_MAX;

/// A buffer of control messages: one, with descriptors. In words, as its header is aligned.
pub struct Control {
    pub words: [u64; 2 + (FDS_MAX + 1).div_ceil(2)],
}

/// `struct cmsghdr`: its length, and what it is.
const CONTROL_HEADER_LEN: usize = 16;
const RIGHTS: u64 = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;

impl Control {
    pub const fn empty() -> Self {
        Self { words: [0; 2 + (FDS_MAX + 1).div_ceil(2)] }
    }

    /// A message with these descriptors; how many bytes it has.
    pub fn put(&mut self, fds: &[BorrowedFd<'_>]) -> usize {
        if fds.is_empty() {
            return 0;
        }
        let [len, kind, numbers @ ..] = &mut self.words;
        (*len, *kind) = ((CONTROL_HEADER_LEN + 4 * fds.len()) as u64, RIGHTS);
        for (word, pair) in numbers.iter_mut().zip(fds.chunks(2)) {
            let number = |fd: &BorrowedFd<'_>| u64::from(fd.as_raw_fd().cast_unsigned());
            *word = pair.iter().rev().fold(0, |word, fd| word << 32 | number(fd));
        }
        CONTROL_HEADER_LEN + 8 * fds.len().div_ceil(2)
    }

    /// The descriptors that the kernel has put here, in so many bytes.
    pub fn take(self, len: usize) -> Vec<OwnedFd> {
        let [message_len, kind, numbers @ ..] = self.words;
        let message_len = usize::try_from(message_len).unwrap_or(0).min(len);
        if len < CONTROL_HEADER_LEN || kind != RIGHTS {
            return Vec::new();
        }
        let count = message_len.saturating_sub(CONTROL_HEADER_LEN) / 4;
        let halves = numbers.into_iter().flat_map(|word| [word, word >> 32]);
        let numbers = halves.filter_map(|half| RawFd::try_from(half & u64::from(u32::MAX)).ok());
        // SAFETY: the kernel has just installed these descriptors in this process, for this call; nobody else knows
        // their numbers, and the buffer is given up here.
        numbers.take(count).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
    }
}
