// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The 16550 serial port: `vm-superio`'s model behind a lock, its output into the [`Console`].
//!
//! The model signals events, not levels, so the device tree describes its interrupt as edge-triggered.

use super::console::Console;
use super::gate::Gate;
use super::interrupts::controller::Spi;
use super::saved::UartV1;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};

impl Trigger for Spi {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.pulse();
        Ok(())
    }
}

/// Wakes the console thread when the guest has emptied the receive FIFO.
#[derive(Debug)]
struct InputRoom(Arc<Console>);

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.wake();
    }
}

/// What the guest writes lands in a vector first: it is passed on only after the model's lock is released,
/// since the console may have to wait for room and its thread needs the model meanwhile.
type Model = Serial<Spi, InputRoom, Vec<u8>>;

/// The serial port as the MMIO router and the console thread share it.
#[derive(Debug)]
pub struct Uart {
    model: Mutex<Model>,
    console: Arc<Console>,
    gate: Arc<Gate>,
}

/// Saved state that no 16550 can be in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved UART has {count} bytes in its FIFO, more than it can hold")]
pub struct UartStateError {
    /// Bytes that the saved state claims.
    pub count: usize,
}

impl Uart {
    /// A port as after reset.
    pub fn new(console: Arc<Console>, gate: Arc<Gate>, irq: Spi) -> Self {
        let model = Serial::with_events(irq, InputRoom(Arc::clone(&console)), Vec::new());
        Self { model: Mutex::new(model), console, gate }
    }

    /// A port as it was saved.
    pub fn restore(
        console: Arc<Console>,
        gate: Arc<Gate>,
        irq: Spi,
        saved: &UartV1,
    ) -> Result<Self, UartStateError> {
        let (state, undelivered) = from_saved(saved);
        let model = Serial::from_state(&state, irq, InputRoom(Arc::clone(&console)), Vec::new())
            .map_err(|_| UartStateError { count: state.in_buffer.len() })?;
        console.restore(undelivered);
        Ok(Self { model: Mutex::new(model), console, gate })
    }

    /// Everything that the next process needs; the machine must be paused.
    pub fn save(&self) -> UartV1 {
        let SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = self.model().state();
        UartV1 {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            input: in_buffer,
            undelivered_output: self.console.undelivered(),
        }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Guest read. Only byte registers 0-7 exist; the rest reads as zero.
    pub fn read(&self, offset: u64) -> u64 {
        match u8::try_from(offset) {
            Ok(register @ 0..=7) => u64::from(self.model().read(register)),
            _ => 0,
        }
    }

    /// Guest write; ignored beyond register 7.
    pub fn write(&self, offset: u64, value: u64) {
        let [byte, ..] = value.to_le_bytes();
        if let Ok(register @ 0..=7) = u8::try_from(offset) {
            let mut model = self.model();
            // A vector takes every byte and the trigger cannot fail.
            let _ = model.write(register, byte);
            let output = std::mem::take(model.writer_mut());
            drop(model);
            if !output.is_empty() {
                self.console.push(&output, &self.gate);
            }
        }
    }

    /// Bytes of input that the FIFO still takes.
    pub fn input_room(&self) -> usize {
        self.model().fifo_capacity()
    }

    /// Feeds console input; the caller keeps to [`Uart::input_room`], the rest is dropped.
    pub fn input(&self, bytes: &[u8]) {
        let _ = self.model().enqueue_raw_bytes(bytes);
    }
}

fn from_saved(saved: &UartV1) -> (SerialState, &[u8]) {
    let UartV1 {
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable,
        interrupt_identification,
        line_control,
        line_status,
        modem_control,
        modem_status,
        scratch,
        input,
        undelivered_output,
    } = saved;
    let state = SerialState {
        baud_divisor_low: *baud_divisor_low,
        baud_divisor_high: *baud_divisor_high,
        interrupt_enable: *interrupt_enable,
        interrupt_identification: *interrupt_identification,
        line_control: *line_control,
        line_status: *line_status,
        modem_control: *modem_control,
        modem_status: *modem_status,
        scratch: *scratch,
        in_buffer: input.clone(),
    };
    (state, undelivered_output)
}

#[cfg(test)]
mod tests;
