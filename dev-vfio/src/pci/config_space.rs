// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A type 0 configuration space: the device's, reduced to the capabilities that are emulated here.
//!
//! Header and capabilities are copied once, when the device is opened. Of the capabilities those of a known kind are
//! shown, relinked; the others, and the extended ones, are hidden: the machine has no ATS, PASID or SR-IOV. BARs,
//! command, interrupt pin and line, and MSI-X control are emulated; power management and PCI Express registers are
//! passed through. A device's list of capabilities is followed for as many steps as fit into 256 bytes, so a loop in
//! it ends.

mod state;

use ipc::protocol::vfio::BarAreas;
use thiserror::Error;

use super::bar::{BAR_COUNT, BarError, Bars, Offered, Placed};
use super::intx::{self, Intx, Pin};
use super::msix::{CONTROL_ENABLE, CONTROL_MASK, Msix, VECTORS_MAX};

/// Bytes that exist; reads beyond return zero, which means "no extended capabilities".
pub const CONFIG_LEN: usize = 256;

mod offset {
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const CACHE_LINE: usize = 0x0c;
    pub const LATENCY: usize = 0x0d;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BIST: usize = 0x0f;
    pub const BAR0: usize = 0x10;
    pub const BAR_END: usize = 0x28;
    pub const ROM: usize = 0x30;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const HEADER_END: usize = 0x40;
}

/// Memory space enable, bus master enable, parity error response, SERR# enable, interrupt disable.
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
/// I/O space enable; writable if the function has some.
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Interrupt Status.
const STATUS_INTX: u8 = 1 << 3;
/// INTA, the pin of a single-function device.
const PIN_INTA: u8 = 1;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// The static bits of the status register: 66 MHz, fast back-to-back, DEVSEL timing. All others are events.
const STATUS_MADE: u16 = 1 << 5 | 1 << 7 | 0b11 << 9;

const CAP_POWER: u8 = 0x01;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// Lengths of the capabilities: PCI PM 1.2 section 3.2; PCI Express section 7.5.3; PCI 3.0 section 6.8.2.
const CAP_POWER_LEN: usize = 8;
const CAP_EXPRESS_LEN: usize = 0x3c;
const CAP_MSIX_LEN: usize = 12;

/// Why a device cannot be shown to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not 256 bytes.
    #[error("the configuration space has {0:#x} bytes, at least 0x100 are needed")]
    Short(usize),
    /// Not an endpoint.
    #[error("the header type is {0:#x}, only endpoints (0) can be assigned")]
    HeaderType(u8),
    /// No device responds.
    #[error("the vendor id is {0:#x}: no device is there")]
    Vendor(u16),
    /// Its BARs do not fit.
    #[error(transparent)]
    Bar(#[from] BarError),
}

/// Where MSI-X table or pending bits lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which BAR.
    pub bar: usize,
    /// Offset into that BAR.
    pub offset: u64,
    /// In bytes.
    pub len: u64,
}

impl Place {
    /// The offset into this structure, if an access begins in it.
    pub fn offset_of(&self, bar: usize, offset: u64) -> Option<u64> {
        offset.checked_sub(self.offset).filter(|offset| bar == self.bar && *offset < self.len)
    }
}

/// What the caller has to do after a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteEffects {
    /// Pass the write on to the device.
    pub forward: bool,
    /// The guest resets the function.
    pub reset: bool,
    /// The effect on the pin.
    pub intx: intx::Effect,
}

/// The function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    image: [u8; CONFIG_LEN],
    /// The image out of reset.
    reset: [u8; CONFIG_LEN],
    /// BARs.
    pub bars: Bars,
    /// MSI-X table; empty without MSI-X.
    pub msix: Msix,
    /// The pin, if the function has one.
    pub intx: Option<Intx>,
    msix_at: Option<usize>,
    table: Option<Place>,
    pending: Option<Place>,
    passed: Vec<core::ops::Range<usize>>,
    express_at: Option<usize>,
    power_at: Option<usize>,
    /// The function is in D3hot.
    sleeps: bool,
}

impl ConfigSpace {
    /// Copies the device's header and capabilities. `vectors` is the number of MSI-X vectors that it can signal.
    ///
    /// # Errors
    /// If such a device cannot be assigned.
    pub fn new(
        device: &[u8],
        lens: [u64; BAR_COUNT],
        vectors: u16,
        areas: &BarAreas,
    ) -> Result<ConfigSpace, ConfigError> {
        let device: &[u8; CONFIG_LEN] = device.first_chunk().ok_or(ConfigError::Short(device.len()))?;
        let vendor = word16(device, 0);
        if vendor == 0 || vendor == u16::MAX {
            return Err(ConfigError::Vendor(vendor));
        }
        let header = byte(device, offset::HEADER_TYPE);
        if header & 0x7f != 0 {
            return Err(ConfigError::HeaderType(header));
        }
        let mut lens = lens.iter();
        let offered = core::array::from_fn(|index| {
            let register = word32(device, offset::BAR0 + 4 * index);
            Offered { register, len: lens.next().copied().unwrap_or(0) }
        });
        let bars = Bars::place(&offered, areas)?;

        let mut image = [0; CONFIG_LEN];
        copy(&mut image, device, 0..offset::HEADER_END);
        zero(&mut image, offset::COMMAND..offset::COMMAND + 2);
        zero(&mut image, offset::BAR0..offset::BAR_END);
        zero(&mut image, offset::ROM..offset::INTERRUPT_LINE);
        // Single function; no self test; the pin is emulated.
        for at in [offset::HEADER_TYPE, offset::BIST, offset::INTERRUPT_LINE, offset::INTERRUPT_PIN] {
            put8(&mut image, at, 0);
        }
        // Reset values: a device that is taken over has been in use.
        zero(&mut image, offset::CACHE_LINE..offset::LATENCY + 1);
        let status = word16(device, offset::STATUS) & STATUS_MADE;
        put16(&mut image, offset::STATUS, status);
        let mut space = ConfigSpace {
            image,
            reset: image,
            bars,
            msix: Msix::new(0),
            intx: None,
            msix_at: None,
            table: None,
            pending: None,
            passed: Vec::new(),
            express_at: None,
            power_at: None,
            sleeps: false,
        };
        space.copy_capabilities(device, vectors);
        space.msix.hold(true);
        space.reset = space.image;
        Ok(space)
    }

    /// Gives the function its pin: INTA, if the device uses one.
    pub fn with_intx(mut self, pin: Pin, device: &[u8]) -> ConfigSpace {
        if device.get(offset::INTERRUPT_PIN).is_some_and(|pin| (1..=4).contains(pin)) {
            put8(&mut self.image, offset::INTERRUPT_PIN, PIN_INTA);
            put8(&mut self.reset, offset::INTERRUPT_PIN, PIN_INTA);
            self.intx = Some(Intx::new(pin));
            let _ = self.update_intx();
        }
        self
    }

    /// Tells the pin whether it may be asserted.
    fn update_intx(&mut self) -> intx::Effect {
        let disabled = word16(&self.image, offset::COMMAND) & COMMAND_INTX_DISABLE != 0;
        let enabled = !disabled && self.msix.control() & CONTROL_ENABLE == 0;
        self.intx.as_mut().map_or(intx::Effect::Nothing, |intx| intx.set_enabled(enabled))
    }

    /// Copies the capabilities of known kinds at their offsets, and links them past the others.
    fn copy_capabilities(&mut self, device: &[u8; CONFIG_LEN], vectors: u16) {
        if word16(device, offset::STATUS) & STATUS_CAPABILITIES == 0 {
            return;
        }
        let mut link = offset::CAPABILITIES;
        let mut next = usize::from(byte(device, offset::CAPABILITIES) & !3);
        // A capability has 4 bytes at least: more steps than this are a loop.
        for _ in 0..(CONFIG_LEN - offset::HEADER_END) / 4 {
            if next < offset::HEADER_END {
                break;
            }
            let at = next;
            let (kind, behind) = (byte(device, at), byte(device, at + 1));
            next = usize::from(behind & !3);
            let shown = match kind {
                CAP_POWER if self.power_at.is_none() => self.show(device, at, CAP_POWER_LEN),
                CAP_EXPRESS if self.express_at.is_none() => self.show_express(device, at),
                CAP_MSIX if self.msix_at.is_none() => self.show_msix(device, at, vectors),
                _ => None,
            };
            if let Some(range) = shown {
                if kind == CAP_POWER {
                    // Control and status; the next pointer before it is emulated.
                    self.passed.push(at + 4..range.end);
                    self.power_at = Some(at);
                }
                put8(&mut self.image, link, u8::try_from(range.start).unwrap_or(0));
                link = range.start + 1;
                put8(&mut self.image, link, 0);
            }
        }
        if byte(&self.image, offset::CAPABILITIES) != 0 {
            let status = word16(&self.image, offset::STATUS) | STATUS_CAPABILITIES;
            put16(&mut self.image, offset::STATUS, status);
        }
    }

    fn show(&mut self, device: &[u8; CONFIG_LEN], at: usize, len: usize) -> Option<core::ops::Range<usize>> {
        let range = at..at.checked_add(len)?;
        // One that overlaps another, or does not fit, is hidden.
        let taken = self.image.get(range.clone())?.iter().any(|byte| *byte != 0);
        if taken {
            return None;
        }
        copy(&mut self.image, device, range.clone());
        Some(range)
    }

    /// On the root bus an endpoint is one that is integrated into the root complex (device type 9): it has no link.
    fn show_express(&mut self, device: &[u8; CONFIG_LEN], at: usize) -> Option<core::ops::Range<usize>> {
        const INTEGRATED_ENDPOINT: u16 = 9 << 4;
        let range = self.show(device, at, CAP_EXPRESS_LEN)?;
        let capabilities = word16(device, at + 2) & !0xf0 | INTEGRATED_ENDPOINT;
        put16(&mut self.image, at + 2, capabilities);
        zero(&mut self.image, at + 0x0c..at + 0x24);
        zero(&mut self.image, at + 0x2c..at + CAP_EXPRESS_LEN);
        // Device control and status, and their second halves.
        self.passed.extend([at + 0x08..at + 0x0c, at + 0x28..at + 0x2c]);
        self.express_at = Some(at);
        Some(range)
    }

    fn show_msix(
        &mut self,
        device: &[u8; CONFIG_LEN],
        at: usize,
        vectors: u16,
    ) -> Option<core::ops::Range<usize>> {
        if at + CAP_MSIX_LEN > CONFIG_LEN {
            return None;
        }
        let offered = (word16(device, at + 2) & 0x7ff) + 1;
        let count = offered.min(vectors).min(VECTORS_MAX);
        let table = place(word32(device, at + 4), u64::from(count) * super::msix::ENTRY_LEN);
        let pending = place(word32(device, at + 8), u64::from(count).div_ceil(64) * 8);
        let inside = |place: &Place| {
            let bar = self.bars.iter().find(|bar| bar.index == place.bar && !bar.is_io());
            bar.is_some_and(|bar| place.offset.saturating_add(place.len) <= bar.range.len())
        };
        if count == 0 || !inside(&table) || !inside(&pending) {
            return None;
        }
        let range = self.show(device, at, CAP_MSIX_LEN)?;
        put16(&mut self.image, at + 2, count - 1);
        self.msix = Msix::new(count);
        self.msix_at = Some(at);
        self.table = Some(table);
        self.pending = Some(pending);
        Some(range)
    }

    /// Whether memory BARs respond: memory space is enabled, and the function is not in D3hot, where it has
    /// configuration space only (PCI Power Management 1.2 section 5.4.1).
    pub fn memory_answers(&self) -> bool {
        self.is_enabled(COMMAND_MEMORY)
    }

    /// Whether a BAR responds: the same, for its kind of space.
    pub fn answers(&self, bar: &Placed) -> bool {
        self.is_enabled(if bar.is_io() { COMMAND_IO } else { COMMAND_MEMORY })
    }

    fn is_enabled(&self, space: u16) -> bool {
        word16(&self.image, offset::COMMAND) & space != 0 && !self.sleeps
    }

    /// Whether the function may make transactions of its own: DMA, and messages.
    pub fn bus_master(&self) -> bool {
        word16(&self.image, offset::COMMAND) & COMMAND_MASTER != 0
    }

    /// Where the MSI-X table is.
    pub fn table(&self) -> Option<Place> {
        self.table
    }

    /// Where the pending bits are.
    pub fn pending(&self) -> Option<Place> {
        self.pending
    }

    /// A read by the guest. `None`: to be forwarded to the device.
    pub fn read(&self, at: u64, size: u8) -> Option<u64> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let end = start.saturating_add(size.into());
        if self.passed.iter().any(|range| start < range.end && range.start < end) {
            return None;
        }
        let bytes = (start..end).map(|at| self.read_byte(at));
        Some(bytes.rev().fold(0, |value, byte| value << 8 | u64::from(byte)))
    }

    fn read_byte(&self, at: usize) -> u8 {
        let part = |word: u32| word.to_le_bytes().into_iter().nth(at % 4).unwrap_or(0);
        if (offset::BAR0..offset::BAR_END).contains(&at) {
            return part(self.bars.read((at - offset::BAR0) / 4));
        }
        if at == offset::STATUS && self.intx.is_some_and(|intx| intx.is_pending()) {
            return byte(&self.image, at) | STATUS_INTX;
        }
        match self.msix_at {
            Some(msix) if at / 4 == msix / 4 => {
                let control = word16(&self.image, msix + 2) | self.msix.control();
                part(u32::from(word16(&self.image, msix)) | u32::from(control) << 16)
            }
            _ => byte(&self.image, at),
        }
    }

    /// A write of `size` bytes by the guest; read-only bits keep their value.
    pub fn write(&mut self, at: u64, size: u8, value: u64) -> WriteEffects {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let end = start.saturating_add(size.into()).min(CONFIG_LEN);
        let mut effects = WriteEffects::default();
        if self.passed.iter().any(|range| start < range.end && range.start < end) {
            effects.forward = true;
            effects.reset = self.starts_reset(start, end, value);
            self.note_power(start, end, value);
            return effects;
        }
        // Register by register, each with the bytes of the write that fall into it.
        let mut at = start;
        while at < end {
            let word_end = (at / 4 * 4 + 4).min(end);
            let mut word = self.current(at / 4 * 4).to_le_bytes();
            for (index, byte) in (at..word_end).zip(value.to_le_bytes().into_iter().skip(at - start)) {
                if let Some(slot) = word.get_mut(index % 4) {
                    *slot = byte;
                }
            }
            self.write_word(at / 4 * 4, u32::from_le_bytes(word), &mut effects);
            at = word_end;
        }
        effects.intx = self.update_intx();
        effects
    }

    /// Bits 1:0 of power management control and status, which is the device's own register.
    fn note_power(&mut self, start: usize, end: usize, value: u64) {
        const D3HOT: u64 = 3;
        let Some(control) = self.power_at.map(|at| at + 4).filter(|at| *at < end) else { return };
        if let Some(skipped) = control.checked_sub(start).and_then(|bytes| u32::try_from(bytes * 8).ok()) {
            self.sleeps = value.checked_shr(skipped).unwrap_or(0) & 3 == D3HOT;
        }
    }

    /// Bit 15 of PCI Express device control.
    fn starts_reset(&self, start: usize, end: usize, value: u64) -> bool {
        let Some(control) = self.express_at.map(|at| at + 0x08) else { return false };
        let high = control + 1;
        let shift = high.checked_sub(start).filter(|_| high < end).map(|bytes| bytes * 8);
        shift.is_some_and(|shift| value.checked_shr(shift.try_into().unwrap_or(64)).unwrap_or(0) & 0x80 != 0)
    }

    fn current(&self, at: usize) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|byte| self.read_byte(at + byte)))
    }

    fn write_word(&mut self, at: usize, value: u32, effects: &mut WriteEffects) {
        let [a, b, c, d] = value.to_le_bytes();
        match at {
            offset::COMMAND => {
                let io = if self.bars.iter().any(Placed::is_io) { COMMAND_IO } else { 0 };
                put16(&mut self.image, at, u16::from_le_bytes([a, b]) & (COMMAND_WRITABLE | io));
                self.msix.hold(!self.bus_master());
                // Bus Master Enable goes to the device as well.
                effects.forward = true;
            }
            offset::CACHE_LINE => {
                put8(&mut self.image, offset::CACHE_LINE, a);
                put8(&mut self.image, offset::LATENCY, b);
            }
            offset::BAR0..offset::BAR_END => self.bars.write((at - offset::BAR0) / 4, value),
            offset::INTERRUPT_LINE => put8(&mut self.image, at, a),
            _ if self.msix_at == Some(at) => {
                self.msix.set_control(u16::from_le_bytes([c, d]) & (CONTROL_ENABLE | CONTROL_MASK));
                effects.forward = true;
            }
            _ => {}
        }
    }

    /// The function was reset. Returns the effect on the pin.
    pub fn reset(&mut self) -> [intx::Effect; 2] {
        self.image = self.reset;
        self.sleeps = false;
        self.bars.reset();
        self.msix.reset();
        self.msix.hold(true);
        let effects = self.intx.as_mut().map(Intx::reset).unwrap_or_default();
        let _ = self.update_intx();
        effects
    }
}

fn place(register: u32, len: u64) -> Place {
    let bar = usize::try_from(register & 7).unwrap_or(usize::MAX);
    Place { bar, offset: u64::from(register & !7), len }
}

fn byte(image: &[u8; CONFIG_LEN], at: usize) -> u8 {
    image.get(at).copied().unwrap_or(0)
}

fn word16(image: &[u8; CONFIG_LEN], at: usize) -> u16 {
    u16::from_le_bytes([byte(image, at), byte(image, at + 1)])
}

fn word32(image: &[u8; CONFIG_LEN], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|index| byte(image, at + index)))
}

fn put8(image: &mut [u8; CONFIG_LEN], at: usize, value: u8) {
    if let Some(byte) = image.get_mut(at) {
        *byte = value;
    }
}

fn put16(image: &mut [u8; CONFIG_LEN], at: usize, value: u16) {
    let [low, high] = value.to_le_bytes();
    put8(image, at, low);
    put8(image, at + 1, high);
}

fn copy(image: &mut [u8; CONFIG_LEN], from: &[u8; CONFIG_LEN], range: core::ops::Range<usize>) {
    range.for_each(|at| put8(image, at, byte(from, at)));
}

fn zero(image: &mut [u8; CONFIG_LEN], range: core::ops::Range<usize>) {
    range.for_each(|at| put8(image, at, 0));
}

#[cfg(test)]
mod tests;
