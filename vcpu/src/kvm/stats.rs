// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's exit statistics of a vCPU, including exits that it handled itself.
//!
//! A vCPU's statistics are a self-describing file (Linux, Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD): a
//! header, a descriptor with a name for each statistic, and the values. The offsets of the wanted ones are looked up
//! once; after that each is a read of 8 bytes, which does not wait for the vCPU. They are only for `inspect`: where
//! they are not available it says why, and the machine runs without.

use std::os::fd::OwnedFd;

use ipc::protocol::inspect::Inspect;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// All exits; MMIO exits to user space, and those that the kernel handled.
const WANTED: [&str; 3] = ["exits", "mmio_exit_user", "mmio_exit_kernel"];

/// Bounds: today's kernels have some 30 statistics with names of 48 bytes.
const COUNT_MAX: u32 = 1024;
const NAME_LEN_MAX: u32 = 256;

/// Required type in the lowest four bits of a statistic's flags: cumulative.
const TYPE_MASK: u32 = 0xf;
const CUMULATIVE: u32 = 0;

/// `kvm_stats_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    flags: u32,
    name_size: u32,
    num_desc: u32,
    id_offset: u32,
    desc_offset: u32,
    data_offset: u32,
}

/// `kvm_stats_desc`; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Descriptor {
    flags: u32,
    exponent: i16,
    /// Count of values.
    size: u16,
    offset: u32,
    bucket_size: u32,
}

/// One vCPU's file, and the offsets of the wanted values.
#[derive(Debug)]
pub struct Stats {
    file: OwnedFd,
    places: [u64; WANTED.len()],
}

impl Stats {
    /// Looks the values up in the file.
    ///
    /// # Errors
    /// What is wrong with the file, as text for `inspect`.
    pub fn of(file: OwnedFd) -> Result<Self, String> {
        let header: Header = read(&file, 0)?;
        let Header { name_size, num_desc, .. } = header;
        if name_size == 0 || name_size > NAME_LEN_MAX || num_desc > COUNT_MAX {
            return Err(format!("{num_desc} statistics with names of {name_size} bytes"));
        }
        let mut places = [None; WANTED.len()];
        let name_len = usize::try_from(name_size).unwrap_or(0);
        let stride = size_of::<Descriptor>() as u64 + u64::from(name_size);
        for index in 0..u64::from(num_desc) {
            let at = u64::from(header.desc_offset) + index * stride;
            let descriptor: Descriptor = read(&file, at)?;
            let mut name = vec![0; name_len];
            fill(&file, at + size_of::<Descriptor>() as u64, &mut name)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let Some(place) = WANTED
                .iter()
                .zip(&mut places)
                .find_map(|(word, place)| (word.as_bytes() == name).then_some(place))
            else {
                continue;
            };
            if descriptor.size != 1 || descriptor.flags & TYPE_MASK != CUMULATIVE {
                return Err(format!("{} is no counter: {descriptor:?}", String::from_utf8_lossy(name)));
            }
            *place = Some(u64::from(header.data_offset) + u64::from(descriptor.offset));
        }
        let [Some(exits), Some(user), Some(kernel)] = places else {
            return Err(format!("not all of {} are among {num_desc}", WANTED.join(", ")));
        };
        Ok(Self { file, places: [exits, user, kernel] })
    }

    /// Shows the values as they are now, under names that begin with `prefix`.
    pub fn inspect(&self, prefix: &str, inspect: &mut Inspect) {
        for (name, place) in WANTED.iter().zip(self.places) {
            match read(&self.file, place) {
                Ok(value) => inspect.counter(format!("{prefix}.{name}"), value),
                Err(why) => inspect.text(format!("{prefix}.{name}"), why),
            }
        }
    }
}

/// A structure of the file.
fn read<T: FromBytes + IntoBytes>(file: &OwnedFd, at: u64) -> Result<T, String> {
    let mut value = T::new_zeroed();
    fill(file, at, value.as_mut_bytes())?;
    Ok(value)
}

fn fill(file: &OwnedFd, at: u64, bytes: &mut [u8]) -> Result<(), String> {
    let len = bytes.len();
    match rustix::io::pread(file, bytes, at) {
        Ok(read) if read == len => Ok(()),
        Ok(read) => Err(format!("{read} of {len} bytes at {at:#x}")),
        Err(errno) => Err(format!("{len} bytes at {at:#x}: {errno}")),
    }
}

#[cfg(test)]
mod tests;
