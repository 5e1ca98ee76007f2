// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which parts of a function's BARs may be mapped into the guest: the areas that the device allows to map, less what
//! is emulated here.
//!
//! Only whole pages inside the BAR are taken, and no page that has a byte of the MSI-X table or PBA: a guest that
//! wrote there directly would have its MSIs sent untranslated. BARs stay where they are, so that a window never
//! moves.

use ipc::addr::GpaRange;
use ipc::protocol::function_link::{DeviceWindow, WINDOW_ALIGN, WINDOWS_MAX};
use ipc::vfio_user::device::{RegionDescription, RegionInfo};

use super::bar::BAR_COUNT;
use super::config_space::{ConfigSpace, Place};

/// The mappable areas of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappable {
    /// Which BAR.
    pub bar: usize,
    /// Beginning and length of each area, from the BAR's beginning.
    pub areas: Vec<(u64, u64)>,
    /// Where the region's first byte is in its file.
    pub file_offset: u64,
    /// Whether it may be mapped writable.
    pub writable: bool,
    /// The most bytes of it that are mapped.
    pub len_max: u64,
}

impl Mappable {
    /// The mappable areas in a region's description, if the region is a BAR that can be mapped.
    pub fn of(index: u32, region: &RegionDescription, len_max: u64) -> Option<Mappable> {
        let (len, flags) = (region.info.size.get(), region.info.flags.get());
        let wanted = RegionInfo::MMAP | RegionInfo::READ;
        let bar = usize::try_from(index).ok().filter(|bar| flags & wanted == wanted && *bar < BAR_COUNT)?;
        let areas = match &region.sparse {
            Some(areas) => areas.iter().map(|area| (area.offset.get(), area.size.get())).collect(),
            None => vec![(0, len)],
        };
        let writable = flags & RegionInfo::WRITE != 0;
        Some(Mappable { bar, areas, file_offset: region.info.offset.get(), writable, len_max })
    }
}

/// The windows of one region. `areas` are the function's, each with its number in the ring.
pub fn cut(space: &ConfigSpace, offered: &Mappable, areas: [(u16, GpaRange); 2]) -> Vec<DeviceWindow> {
    let Some(bar) = space.bars.iter().find(|bar| bar.index == offered.bar) else { return Vec::new() };
    let area = areas.into_iter().find(|(_, range)| range.contains_range(bar.range));
    let Some((region, area)) = area else { return Vec::new() };
    let Some(base) = bar.range.start().checked_offset_from(area.start()) else { return Vec::new() };
    let end = bar.region_len.min(bar.range.len());

    let mut pieces: Vec<(u64, u64)> = offered
        .areas
        .iter()
        .filter_map(|(start, len)| pages(*start, start.checked_add(*len)?.min(end)))
        .collect();
    let emulated = [space.table(), space.pending()].into_iter().flatten();
    for Place { offset, len, .. } in emulated.filter(|place| place.bar == bar.index) {
        let (first, last) = touched(offset, len);
        pieces = pieces.into_iter().flat_map(|piece| without(piece, first, last)).collect();
    }
    pieces.sort_unstable();
    let mut windows: Vec<DeviceWindow> = Vec::new();
    let (mut free, mut room) = (0, offered.len_max);
    for (start, end) in pieces {
        // A device may describe overlapping areas; each page is mapped once.
        let start = start.max(free);
        let len = end.saturating_sub(start);
        let file_offset = offered.file_offset.checked_add(start);
        let (Some(file_offset), Some(offset)) = (file_offset, base.checked_add(start)) else { continue };
        if len == 0 || len > room || windows.len() == WINDOWS_MAX {
            continue;
        }
        (free, room) = (end, room - len);
        windows.push(DeviceWindow { region, offset, len, file_offset, writable: offered.writable });
    }
    windows
}

/// The whole pages in a range.
fn pages(start: u64, end: u64) -> Option<(u64, u64)> {
    let start = start.checked_next_multiple_of(WINDOW_ALIGN)?;
    let end = end / WINDOW_ALIGN * WINDOW_ALIGN;
    (start < end).then_some((start, end))
}

/// The pages that a range has a byte in.
fn touched(offset: u64, len: u64) -> (u64, u64) {
    let end = offset.saturating_add(len).checked_next_multiple_of(WINDOW_ALIGN);
    (offset / WINDOW_ALIGN * WINDOW_ALIGN, end.unwrap_or(u64::MAX))
}

/// What is left of a piece before and behind a hole.
fn without((start, end): (u64, u64), first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let before = (start, end.min(first));
    let behind = (start.max(last), end);
    [before, behind].into_iter().filter(|(start, end)| start < end)
}

#[cfg(test)]
mod tests;
