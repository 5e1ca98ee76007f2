// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The INTx pin of a function, over a device that masks its interrupt when it signals it (VFIO's automasked INTx).
//!
//! The device signals once and is silent until it is unmasked; if it still wants something then, it signals again. The
//! guest's line falls when the guest ends the interrupt, and is raised by the next signal: so unmasking at the end
//! makes a level of it. While the guest has INTx disabled, or uses MSI-X, the pin is not asserted; what the device
//! wanted meanwhile it says again when it is unmasked. PCI 3.0 sections 2.2.6 and 6.2.2 (command bit 10, status bit 3).

/// What a change asks the caller to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    #[default]
    Nothing,
    /// Assert the pin at the interrupt controller.
    Raise,
    /// The pin fell without the guest ending the interrupt.
    Lower,
    /// Unmask the device.
    Unmask,
}

/// The pin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intx {
    /// The device has signalled, and is masked since.
    pending: bool,
    /// The pin is asserted.
    raised: bool,
    enabled: bool,
}

impl Intx {
    /// The device signals: it has masked itself.
    pub fn signal(&mut self) -> Wish {
        self.pending = true;
        self.raised = self.enabled;
        if self.enabled { Wish::Raise } else { Wish::Nothing }
    }

    /// The line fell: at the end of an interrupt, ours or that of another function on the line.
    pub fn ended(&mut self) -> Wish {
        let ours = std::mem::take(&mut self.raised);
        // While it is disabled the device stays masked.
        if ours && std::mem::take(&mut self.pending) { Wish::Unmask } else { Wish::Nothing }
    }

    /// The guest has changed the command register or MSI-X: whether the function may assert its pin.
    pub fn set_enabled(&mut self, enabled: bool) -> Wish {
        self.enabled = enabled;
        if !enabled && std::mem::take(&mut self.raised) {
            return Wish::Lower;
        }
        if enabled && !self.raised && std::mem::take(&mut self.pending) {
            return Wish::Unmask;
        }
        Wish::Nothing
    }

    /// Status bit 3: the device wants something, whether the pin may say so or not.
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// The device's interrupt was disconnected: what it wants is not known, and it is unmasked when it is connected again.
    pub fn disconnected(&mut self) {
        self.pending = false;
    }

    /// The function was reset: the device wants nothing, and has to be unmasked if it was masked.
    pub fn reset(&mut self) -> [Wish; 2] {
        let Self { pending, raised, .. } = std::mem::take(self);
        let lower = if raised { Wish::Lower } else { Wish::Nothing };
        let unmask = if pending { Wish::Unmask } else { Wish::Nothing };
        [lower, unmask]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Intx {
        let mut intx = Intx::default();
        assert_eq!(intx.set_enabled(true), Wish::Nothing);
        intx
    }

    #[test]
    fn signal_raises_and_the_end_unmasks() {
        let mut intx = enabled();
        assert_eq!(intx.signal(), Wish::Raise);
        assert!(intx.is_pending());
        assert_eq!(intx.ended(), Wish::Unmask);
        assert!(!intx.is_pending());
        assert_eq!(intx.signal(), Wish::Raise, "it still wants something");
        assert_eq!(intx.ended(), Wish::Unmask);
        assert_eq!(intx.ended(), Wish::Nothing, "another function of the line was ended");
    }

    #[test]
    fn disabled_pin_stays_low_and_the_device_masked() {
        let mut intx = Intx::default();
        assert_eq!(intx.signal(), Wish::Nothing);
        assert!(intx.is_pending(), "status says so all the same");
        assert_eq!(intx.ended(), Wish::Nothing);
        assert_eq!(
            intx.set_enabled(true),
            Wish::Unmask,
            "whether it still wants something, the device knows"
        );
        assert!(!intx.is_pending());
        assert_eq!(intx.signal(), Wish::Raise);
    }

    #[test]
    fn disabling_an_asserted_pin_lowers_it_and_enabling_asks_again() {
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.set_enabled(true), Wish::Nothing, "nothing has changed");
        assert_eq!(intx.set_enabled(false), Wish::Lower);
        assert_eq!(intx.ended(), Wish::Nothing, "the fall comes back as an end");
        assert_eq!(intx.set_enabled(false), Wish::Nothing);
        assert_eq!(intx.set_enabled(true), Wish::Unmask);
    }

    #[test]
    fn disconnected_device_is_asked_for_nothing_when_the_pin_is_enabled_again() {
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.set_enabled(false), Wish::Lower, "MSI-X takes its place");
        intx.disconnected();
        assert!(!intx.is_pending());
        assert_eq!(intx.set_enabled(true), Wish::Nothing, "connected, it is unmasked and speaks for itself");
        assert_eq!(intx.signal(), Wish::Raise);
    }

    #[test]
    fn reset_lowers_what_is_asserted_and_unmasks_what_is_masked() {
        let mut intx = enabled();
        assert_eq!(intx.reset(), [Wish::Nothing; 2]);
        let mut intx = enabled();
        let _ = intx.signal();
        assert_eq!(intx.reset(), [Wish::Lower, Wish::Unmask]);
        assert_eq!(intx.signal(), Wish::Nothing, "a function out of reset is not enabled before it says so");
    }
}
