// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why an access fails, and how ESR_EL1 and PAR_EL1 report it (Arm ARM D13, ESR_ELx ISS for aborts).

/// A fault of translation or of the access itself. Levels are those of the table walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    AddressSize(u8),
    Translation(u8),
    AccessFlag(u8),
    Permission(u8),
    /// The access itself went where nothing can answer it, such as fetching code from a device.
    External,
    ExternalOnWalk(u8),
    Alignment,
    /// An exclusive or atomic access where these do not work.
    Exclusive,
}

impl Fault {
    /// The fault status code: DFSC, IFSC and PAR_EL1.FST.
    pub(crate) const fn status(self) -> u64 {
        match self {
            Fault::AddressSize(level) => level as u64 & 3,
            Fault::Translation(level) => 0b000100 | level as u64 & 3,
            Fault::AccessFlag(level) => 0b001000 | level as u64 & 3,
            Fault::Permission(level) => 0b001100 | level as u64 & 3,
            Fault::External => 0b010000,
            Fault::ExternalOnWalk(level) => 0b010100 | level as u64 & 3,
            Fault::Alignment => 0b100001,
            Fault::Exclusive => 0b110101,
        }
    }
}
