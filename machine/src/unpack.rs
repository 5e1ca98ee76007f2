// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of an Image, unpacked while they are read: nothing of it is held but what the method's window needs.
//!
//! Run by the sealed coordinator before there is a guest, on a file of the user's own. The caller bounds what comes
//! out; what goes in is bounded by the file, and memory by [`ZSTD_WINDOW_LEN_MAX`]. Checksums are verified.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::format::{Method, Packing};

/// The largest window that `zstd --ultra -22` makes, with which zboot kernels are built: it does not know their length.
const ZSTD_WINDOW_LEN_MAX: u64 = 128 << 20;

/// Reads the Image in `file`. The file's position is where it goes on.
///
/// # Errors
/// The host's, or `InvalidData` where the packed bytes are not what they should be.
pub fn open<'a>(mut file: &'a File, packing: &Packing) -> io::Result<Box<dyn Read + 'a>> {
    file.seek(SeekFrom::Start(packing.range.start))?;
    let bytes = BufReader::with_capacity(1 << 16, file.take(packing.range.end - packing.range.start));
    Ok(match packing.method {
        Method::Plain => Box::new(bytes),
        Method::Gzip => Box::new(GzDecoder::new(bytes)),
        Method::Zstd => Box::new(Zstd::new(bytes)?),
    })
}

type Bytes<'a> = BufReader<Take<&'a File>>;

/// One frame, whose checksum is compared at its end.
struct Zstd<'a>(StreamingDecoder<Bytes<'a>, FrameDecoder>);

impl<'a> Zstd<'a> {
    fn new(bytes: Bytes<'a>) -> io::Result<Self> {
        StreamingDecoder::new_with_max_window_size(bytes, ZSTD_WINDOW_LEN_MAX)
            .map(Self)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let count = self.0.read(buffer).map_err(|error| match error.raw_os_error() {
            Some(_) => error,
            None => invalid(error.to_string()),
        })?;
        if count == 0 && !buffer.is_empty() {
            let frame = &self.0.decoder;
            if frame
                .get_checksum_from_data()
                .is_some_and(|told| frame.get_calculated_checksum() != Some(told))
            {
                return Err(invalid("its checksum does not match".to_owned()));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;
