// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The INTx pin of a function: a level, made from the edges (eventfd signals) that a device sends.
//!
//! Automasked INTx (`VFIO_IRQ_INFO_AUTOMASKED`) signals once and stays masked until it is unmasked; if it is still
//! asserted at the device, it signals again. The line is deasserted when the guest ends the interrupt, and asserted
//! by the next signal: so unmasking at the end emulates a level. While INTx is disabled or MSI-X is used the pin is
//! not asserted; a device that is still asserted signals again when it is unmasked. INTx without automasking (all
//! servers built on libvfio-user) signals each interrupt once: a signal while the pin is asserted is one more
//! interrupt, and one that came while the pin was disabled is asserted when it is enabled. At worst the guest sees
//! one spurious interrupt. PCI 3.0 sections 2.2.6 and 6.2.2 (command bit 10, status bit 3).

use crate::saved::{IntxV1, StateError};

/// What the caller has to do after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// The pin's level is as before.
    #[default]
    Nothing,
    /// Assert the pin at the interrupt controller.
    Raise,
    /// Deassert the pin: the guest did not end the interrupt.
    Lower,
    /// Unmask the device.
    Unmask,
}

/// The kind of INTx the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// It masks itself when it signals (automasked).
    pub automasked: bool,
}

/// The pin.
#[derive(Clone, Copy, Debug)]
pub struct Intx {
    pin: Pin,
    /// The device has signalled; automasked INTx is masked since.
    pending: bool,
    /// The pin is asserted.
    raised: bool,
    /// The device has signalled once more while the pin was asserted.
    again: bool,
    enabled: bool,
}

impl Intx {
    /// A pin out of reset.
    pub const fn new(pin: Pin) -> Intx {
        Intx { pin, pending: false, raised: false, again: false, enabled: false }
    }

    /// The device signals; automasked INTx is masked now.
    pub fn signal(&mut self) -> Effect {
        self.pending = true;
        if !self.enabled {
            return Effect::Nothing;
        }
        if std::mem::replace(&mut self.raised, true) && !self.pin.automasked {
            self.again = true;
            return Effect::Nothing;
        }
        Effect::Raise
    }

    /// The line was deasserted at the end of an interrupt, of this function or of another on the line.
    pub fn ended(&mut self) -> Effect {
        if !self.raised {
            return Effect::Nothing;
        }
        if std::mem::take(&mut self.again) {
            return Effect::Raise;
        }
        self.raised = false;
        // While it is disabled the device stays masked.
        if std::mem::take(&mut self.pending) { Effect::Unmask } else { Effect::Nothing }
    }

    /// The guest has changed Interrupt Disable or MSI-X Enable: whether the function may assert its pin.
    pub fn set_enabled(&mut self, enabled: bool) -> Effect {
        self.enabled = enabled;
        if !enabled && std::mem::take(&mut self.raised) {
            self.again = false;
            return Effect::Lower;
        }
        if enabled && !self.raised && self.pending {
            if self.pin.automasked {
                self.pending = false;
                return Effect::Unmask;
            }
            self.raised = true;
            return Effect::Raise;
        }
        Effect::Nothing
    }

    /// Interrupt Status (bit 3): an interrupt is pending at the device, whether the pin is enabled or not.
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// The device's interrupt was disconnected: its state is unknown, and connecting it again unmasks it.
    pub fn disconnected(&mut self) {
        self.pending = false;
    }

    /// Its state.
    pub const fn save(&self) -> IntxV1 {
        // Whether it is enabled follows from the command register and MSI-X.
        let Intx { pin: Pin { automasked }, pending, raised, again, enabled: _ } = *self;
        IntxV1 { automasked, pending, raised, again }
    }

    /// Restores the state of a pin. It must be enabled as this one is.
    ///
    /// # Errors
    /// If it is of another kind of pin, or inconsistent.
    pub fn restore(&mut self, state: IntxV1) -> Result<(), StateError> {
        let IntxV1 { automasked, pending, raised, again } = state;
        StateError::unless_equal("automasked INTx", &automasked, &self.pin.automasked)?;
        if raised && !self.enabled {
            return Err(StateError::Impossible { what: "a pin asserted while it is disabled", found: 1 });
        }
        if again && (!raised || automasked) {
            return Err(StateError::Impossible { what: "a second interrupt of a pin", found: 1 });
        }
        (self.pending, self.raised, self.again) = (pending, raised, again);
        Ok(())
    }

    /// Whether the pin is asserted.
    pub const fn is_raised(&self) -> bool {
        self.raised
    }

    /// The function was reset: nothing is pending, and the device has to be unmasked if it was masked.
    pub fn reset(&mut self) -> [Effect; 2] {
        let Self { pin, pending, raised, .. } = *self;
        *self = Self::new(pin);
        let lower = if raised { Effect::Lower } else { Effect::Nothing };
        let unmask = if pending { Effect::Unmask } else { Effect::Nothing };
        [lower, unmask]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOMASKED: Pin = Pin { automasked: true };

    fn enabled() -> Intx {
        let mut intx = Intx::new(AUTOMASKED);
        assert_eq!(intx.set_enabled(true), Effect::Nothing);
        intx
    }

    #[test]
    fn signal_raises_and_the_end_unmasks() {
        let mut intx = enabled();
        assert_eq!(intx.signal(), Effect::Raise);
        assert!(intx.is_pending());
        assert_eq!(intx.ended(), Effect::Unmask);
        assert!(!intx.is_pending());
        assert_eq!(intx.signal(), Effect::Raise, "it still wants something");
        assert_eq!(intx.ended(), Effect::Unmask);
        assert_eq!(intx.ended(), Effect::Nothing, "another function of the line was ended");
    }

    #[test]
    fn disabled_pin_stays_low_and_the_device_masked() {
        let mut intx = Intx::new(AUTOMASKED);
        assert_eq!(intx.signal(), Effect::Nothing);
        assert!(intx.is_pending(), "status says so all the same");
        assert_eq!(intx.ended(), Effect::Nothing);
        assert_eq!(
            intx.set_enabled(true),
            Effect::Unmask,
            "whether it still wants something, the device knows"
        );
        assert!(!intx.is_pending());
        assert_eq!(intx.signal(), Effect::Raise);
    }

    #[test]
    fn disabling_an_asserted_pin_lowers_it_and_enabling_asks_again() {
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.set_enabled(true), Effect::Nothing, "nothing has changed");
        assert_eq!(intx.set_enabled(false), Effect::Lower);
        assert_eq!(intx.ended(), Effect::Nothing, "the fall comes back as an end");
        assert_eq!(intx.set_enabled(false), Effect::Nothing);
        assert_eq!(intx.set_enabled(true), Effect::Unmask);
    }

    #[test]
    fn disconnected_device_is_asked_for_nothing_when_the_pin_is_enabled_again() {
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.set_enabled(false), Effect::Lower, "MSI-X takes its place");
        intx.disconnected();
        assert!(!intx.is_pending());
        assert_eq!(
            intx.set_enabled(true),
            Effect::Nothing,
            "connected, it is unmasked and speaks for itself"
        );
        assert_eq!(intx.signal(), Effect::Raise);
    }

    #[test]
    fn a_device_that_does_not_mask_itself_loses_no_signal() {
        let mut intx = Intx::new(Pin { automasked: false });
        assert_eq!(intx.signal(), Effect::Nothing);
        assert_eq!(intx.set_enabled(true), Effect::Raise, "it will not say it again");
        assert_eq!((intx.signal(), intx.signal()), (Effect::Nothing, Effect::Nothing), "the pin is asserted");
        assert_eq!(intx.ended(), Effect::Raise, "which was another interrupt");
        assert!(intx.is_pending());
        assert_eq!(intx.ended(), Effect::Unmask);
        assert_eq!((intx.ended(), intx.is_pending()), (Effect::Nothing, false));
        let _ = (intx.signal(), intx.signal());
        assert_eq!(intx.set_enabled(false), Effect::Lower);
        assert_eq!(intx.ended(), Effect::Nothing, "the fall comes back as an end");
        assert_eq!(intx.set_enabled(true), Effect::Raise);
        assert_eq!(intx.ended(), Effect::Unmask, "once");
        let _ = intx.signal();
        assert_eq!(intx.reset(), [Effect::Lower, Effect::Unmask]);
        assert_eq!(intx.ended(), Effect::Nothing);
    }

    #[test]
    fn reset_lowers_what_is_asserted_and_unmasks_what_is_masked() {
        let mut intx = enabled();
        assert_eq!(intx.reset(), [Effect::Nothing; 2]);
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.reset(), [Effect::Lower, Effect::Unmask]);
        assert_eq!(
            intx.signal(),
            Effect::Nothing,
            "a function out of reset is not enabled before it says so"
        );
    }
}
