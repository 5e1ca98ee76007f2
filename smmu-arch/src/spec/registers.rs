// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the registers lie: the Non-secure programming interface, page 0 and page 1.
//!
//! IHI 0070 §6.1 (memory map) and §6.2 (register overview). Secure, Realm and Root registers, the Command
//! queue control pages and VATOS pages are not in this map: an SMMU without those features has none.
//! `Register::at` is the only place an offset is looked at; handlers match on names.

/// Bytes of one register page.
pub const PAGE_LEN: u64 = 0x1_0000;
/// Bytes of the whole register file: page 0 and page 1.
pub const REGISTER_FILE_LEN: u64 = 2 * PAGE_LEN;

macro_rules! registers {
    ($($(#[$meta:meta])* $name:ident = $offset:literal, $width:literal;)+) => {
        /// A register of the Non-secure programming interface.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[expect(non_camel_case_types, reason = "named as in the manual")]
        pub enum Register {
            $($(#[$meta])* $name,)+
        }

        impl Register {
            /// Every register, in the order of their offsets.
            pub const ALL: &'static [Register] = &[$(Register::$name,)+];

            /// Offset from the base of page 0.
            pub const fn offset(self) -> u64 {
                match self { $(Register::$name => $offset,)+ }
            }

            /// Width in bytes: 4 or 8.
            pub const fn width(self) -> u8 {
                match self { $(Register::$name => $width,)+ }
            }

            /// The register that starts at `offset`, if one does.
            pub const fn at(offset: u64) -> Option<Register> {
                match offset { $($offset => Some(Register::$name),)+ _ => None }
            }
        }
    };
}

registers! {
    /// §6.3.1
    IDR0 = 0x00, 4;
    /// §6.3.2
    IDR1 = 0x04, 4;
    /// §6.3.3
    IDR2 = 0x08, 4;
    /// §6.3.4
    IDR3 = 0x0c, 4;
    /// §6.3.5
    IDR4 = 0x10, 4;
    /// §6.3.6
    IDR5 = 0x14, 4;
    /// §6.3.7
    IIDR = 0x18, 4;
    /// §6.3.8
    AIDR = 0x1c, 4;
    /// §6.3.9
    CR0 = 0x20, 4;
    /// §6.3.10
    CR0ACK = 0x24, 4;
    /// §6.3.11
    CR1 = 0x28, 4;
    /// §6.3.12
    CR2 = 0x2c, 4;
    /// §6.3.17, only with stage 2 permission indirection
    S2PII = 0x30, 8;
    /// §6.3.13
    STATUSR = 0x40, 4;
    /// §6.3.14
    GBPA = 0x44, 4;
    /// §6.3.15
    AGBPA = 0x48, 4;
    /// §6.3.16
    IRQ_CTRL = 0x50, 4;
    /// §6.3.18
    IRQ_CTRLACK = 0x54, 4;
    /// §6.3.19
    GERROR = 0x60, 4;
    /// §6.3.20
    GERRORN = 0x64, 4;
    /// §6.3.21
    GERROR_IRQ_CFG0 = 0x68, 8;
    /// §6.3.22
    GERROR_IRQ_CFG1 = 0x70, 4;
    /// §6.3.23
    GERROR_IRQ_CFG2 = 0x74, 4;
    /// §6.3.24
    STRTAB_BASE = 0x80, 8;
    /// §6.3.25
    STRTAB_BASE_CFG = 0x88, 4;
    /// §6.3.26
    CMDQ_BASE = 0x90, 8;
    /// §6.3.27
    CMDQ_PROD = 0x98, 4;
    /// §6.3.28
    CMDQ_CONS = 0x9c, 4;
    /// §6.3.29
    EVENTQ_BASE = 0xa0, 8;
    /// §6.2: optional alias of the page 1 register
    EVENTQ_PROD_ALIAS = 0xa8, 4;
    /// §6.2: optional alias of the page 1 register
    EVENTQ_CONS_ALIAS = 0xac, 4;
    /// §6.3.30
    EVENTQ_IRQ_CFG0 = 0xb0, 8;
    /// §6.3.31
    EVENTQ_IRQ_CFG1 = 0xb8, 4;
    /// §6.3.32
    EVENTQ_IRQ_CFG2 = 0xbc, 4;
    /// §6.3.33
    PRIQ_BASE = 0xc0, 8;
    /// §6.2: optional alias of the page 1 register
    PRIQ_PROD_ALIAS = 0xc8, 4;
    /// §6.2: optional alias of the page 1 register
    PRIQ_CONS_ALIAS = 0xcc, 4;
    /// §6.3.34
    PRIQ_IRQ_CFG0 = 0xd0, 8;
    /// §6.3.35
    PRIQ_IRQ_CFG1 = 0xd8, 4;
    /// §6.3.36
    PRIQ_IRQ_CFG2 = 0xdc, 4;
    /// §6.3.37
    GATOS_CTRL = 0x100, 4;
    /// §6.3.38
    GATOS_SID = 0x108, 8;
    /// §6.3.39
    GATOS_ADDR = 0x110, 8;
    /// §6.3.40
    GATOS_PAR = 0x118, 8;
    /// §6.3.41
    MPAMIDR = 0x130, 4;
    /// §6.3.42
    GMPAM = 0x138, 4;
    /// §6.3.43
    GBPMPAM = 0x13c, 4;
    /// §6.3.44
    VATOS_SEL = 0x180, 4;
    /// §6.3.45
    IDR6 = 0x190, 4;
    /// §6.3.46
    DPT_BASE = 0x200, 8;
    /// §6.3.47
    DPT_BASE_CFG = 0x208, 4;
    /// §6.3.48
    DPT_CFG_FAR = 0x210, 8;
    /// §6.2, CoreSight peripheral identification
    PIDR4 = 0xfd0, 4;
    /// §6.2
    PIDR5 = 0xfd4, 4;
    /// §6.2
    PIDR6 = 0xfd8, 4;
    /// §6.2
    PIDR7 = 0xfdc, 4;
    /// §6.2
    PIDR0 = 0xfe0, 4;
    /// §6.2
    PIDR1 = 0xfe4, 4;
    /// §6.2
    PIDR2 = 0xfe8, 4;
    /// §6.2
    PIDR3 = 0xfec, 4;
    /// §6.2, CoreSight component identification
    CIDR0 = 0xff0, 4;
    /// §6.2
    CIDR1 = 0xff4, 4;
    /// §6.2
    CIDR2 = 0xff8, 4;
    /// §6.2
    CIDR3 = 0xffc, 4;
    /// Page 1
    EVENTQ_PROD = 0x1_00a8, 4;
    /// Page 1
    EVENTQ_CONS = 0x1_00ac, 4;
    /// Page 1
    PRIQ_PROD = 0x1_00c8, 4;
    /// Page 1
    PRIQ_CONS = 0x1_00cc, 4;
}

impl Register {
    /// The register whose bytes include the 4-aligned `offset`, and whether it is the upper half.
    pub const fn covering(offset: u64) -> Option<(Register, bool)> {
        if let Some(register) = Register::at(offset) {
            return Some((register, false));
        }
        match Register::at(offset.wrapping_sub(4)) {
            Some(register) if register.width() == 8 => Some((register, true)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
