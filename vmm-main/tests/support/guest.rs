// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of a few instructions, assembled here: an arm64 Image header and code behind it. They need no kernel,
//! no compiler and no network, and each does one thing that a test can see.
//!
//! Encodings: Arm ARM (DDI 0487) chapter C6. Registers: x1 holds the UART's address throughout.

const UART_BASE: u32 = 0x0900_0000;
const HEADER_LEN: usize = 64;
const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;

/// `movz wD, #low; movk wD, #high, lsl 16`.
fn load(register: u32, value: u32) -> [u32; 2] {
    [0x5280_0000 | (value & 0xffff) << 5 | register, 0x72a0_0000 | (value >> 16) << 5 | register]
}

/// `hvc #0` with `function` in w0, and an endless loop should it return.
fn psci(function: u32) -> Vec<u32> {
    let [low, high] = load(0, function);
    vec![low, high, 0xd400_0002, 0x1400_0000]
}

/// Waits until the UART's transmitter is empty (LSR bit 5), then sends w4.
fn send_w4() -> Vec<u32> {
    vec![
        0x3940_1425, // ldrb w5, [x1, #5]
        0x362f_ffe5, // tbz w5, #5, -4
        0x3900_0024, // strb w4, [x1]
    ]
}

/// An Image of this code.
pub fn image(code: &[u32]) -> Vec<u8> {
    let mut image = vec![0; HEADER_LEN];
    image[0..4].copy_from_slice(&0x1400_0010_u32.to_le_bytes()); // b +64
    let len = (HEADER_LEN + code.len() * 4) as u64;
    image[16..24].copy_from_slice(&len.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    image
}

/// Prints `text`, then switches itself off.
pub fn prints_and_powers_off(text: &str) -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    for byte in text.bytes() {
        code.push(0x5280_0000 | u32::from(byte) << 5 | 4); // movz w4, #byte
        code.extend(send_w4());
    }
    code.extend(psci(PSCI_SYSTEM_OFF));
    image(&code)
}

/// Prints `R` and asks for a reset.
pub fn prints_and_resets() -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    code.push(0x5280_0000 | u32::from(b'R') << 5 | 4);
    code.extend(send_w4());
    code.extend(psci(PSCI_SYSTEM_RESET));
    image(&code)
}

/// Prints the characters `0` to `o` (64 of them) round and round for ever, keeping the count in a register and, as a
/// check, in memory: it prints `!` once the two differ.
pub fn counts_for_ever() -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    code.extend(load(6, 0x4040_0000)); // w6: a word of RAM far from code and device tree
    code.push(0x5280_0003); // movz w3, #0
    code.push(0xb900_00c3); // str w3, [x6]
    let top = code.len();
    code.push(0xb940_00c7); // ldr w7, [x6]
    code.push(0x6b03_00ff); // cmp w7, w3
    code.push(0x5400_0060); // b.eq +12: skip the two instructions that complain
    code.push(0x5280_0424); // movz w4, #'!'
    code.push(0x1400_0003); // b +12: to the sending
    code.push(0x1200_1464); // and w4, w3, #0x3f
    code.push(0x1100_c084); // add w4, w4, #'0'
    code.extend(send_w4());
    code.push(0x1100_0463); // add w3, w3, #1
    code.push(0xb900_00c3); // str w3, [x6]
    let [low, high] = load(8, 20_000);
    code.extend([low, high]);
    code.push(0x7100_0508); // subs w8, w8, #1
    code.push(0x54ff_ffe1); // b.ne -4
    let back = u32::try_from(code.len() - top).unwrap();
    code.push(0x1400_0000 | 0u32.wrapping_sub(back) & 0x03ff_ffff); // b top
    image(&code)
}

/// Prints back every byte that it receives.
pub fn echoes() -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    let top = code.len();
    code.push(0x3940_1425); // ldrb w5, [x1, #5]
    code.push(0x3607_ffe5); // tbz w5, #0, -4
    code.push(0x3940_0024); // ldrb w4, [x1]
    code.extend(send_w4());
    let back = u32::try_from(code.len() - top).unwrap();
    code.push(0x1400_0000 | 0u32.wrapping_sub(back) & 0x03ff_ffff);
    image(&code)
}

/// Prints as fast as the UART takes it, for ever.
pub fn floods() -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    code.push(0x5280_0000 | u32::from(b'f') << 5 | 4);
    code.extend(send_w4());
    code.push(0x17ff_fffd); // b to the ldrb
    image(&code)
}

/// Does nothing, for ever.
pub fn spins() -> Vec<u8> {
    image(&[0x1400_0000])
}

/// Configuration space of the function in slot 1, and where its 32-bit and I/O BARs begin.
const FUNCTION_CONFIG: u32 = 0x3000_8000;
const FUNCTION_AREA32: u32 = 0x1100_0000;
const FUNCTION_IO: u32 = 0x0f00_8000;

/// `movz w4, #command; strh w4, [x6, #4]`: the PCI command register, with x6 at configuration space.
fn set_command(command: u32) -> [u32; 2] {
    [0x5280_0004 | command << 5, 0x7900_08c4]
}

/// Drives BAR 0 of the function in slot 1: writes `G` to its first byte, prints the byte at 8 with memory space enabled
/// and once more with it disabled, then waits until the byte at 16 is not 0, prints it, and switches itself off.
pub fn drives_bar_0() -> Vec<u8> {
    drives_bar_0_then(FUNCTION_AREA32, 0b110, PSCI_SYSTEM_OFF)
}

/// The same where BAR 0 is I/O.
pub fn drives_io_bar_0() -> Vec<u8> {
    drives_bar_0_then(FUNCTION_IO, 0b101, PSCI_SYSTEM_OFF)
}

/// The same, and a reset at the end.
pub fn drives_bar_0_and_resets() -> Vec<u8> {
    drives_bar_0_then(FUNCTION_AREA32, 0b110, PSCI_SYSTEM_RESET)
}

fn drives_bar_0_then(area: u32, enabled: u32, end: u32) -> Vec<u8> {
    let mut code = load(1, UART_BASE).to_vec();
    code.extend(load(6, FUNCTION_CONFIG));
    code.extend(load(7, area));
    code.extend(set_command(enabled));
    code.push(0x5280_0004 | u32::from(b'G') << 5); // movz w4, #'G'
    code.push(0x3900_00e4); // strb w4, [x7]
    code.push(0x3940_20e4); // ldrb w4, [x7, #8]
    code.extend(send_w4());
    code.extend(set_command(0b100));
    code.push(0x3940_20e4);
    code.extend(send_w4());
    code.extend(set_command(enabled));
    code.push(0x3940_40e4); // ldrb w4, [x7, #16]
    code.push(0x34ff_ffe4); // cbz w4, -4
    code.extend(send_w4());
    code.extend(psci(end));
    image(&code)
}

/// `str wT, [xN, #offset]`.
fn store(register: u32, base: u32, offset: u32) -> u32 {
    0xb900_0000 | (offset / 4) << 10 | base << 5 | register
}

/// Takes the INTx of the function in slot 1 by polling the interrupt controller: prints `r` when it is ready, and `I`
/// for every interrupt, whose number from 1 on it tells the device in the byte at 32 of BAR 0.
pub fn takes_intx() -> Vec<u8> {
    const GIC_DISTRIBUTOR: u32 = 0x0810_0000;
    const GIC_REDISTRIBUTOR: u32 = 0x0840_0000;
    // INTID 41: SPI 9, where INTA of slot 1 ends.
    const SPI_BIT: u32 = 1 << 9;
    let movz = |value: u32| 0x5280_0004 | value << 5; // movz w4, #value
    let mut code = load(1, UART_BASE).to_vec();
    code.extend(load(6, FUNCTION_CONFIG));
    code.extend(load(7, FUNCTION_AREA32));
    code.extend(set_command(0b110));
    code.extend(load(9, GIC_DISTRIBUTOR));
    code.extend(load(10, GIC_REDISTRIBUTOR));
    code.extend([movz(0x12), store(4, 9, 0)]); // GICD_CTLR: affinity routing, group 1
    code.extend([movz(SPI_BIT), store(4, 9, 0x84), store(4, 9, 0x104)]); // IGROUPR1, ISENABLER1
    code.push(store(31, 10, 0x14)); // GICR_WAKER: awake
    code.extend([movz(0xf8), 0xd518_4604]); // msr ICC_PMR_EL1, x4
    code.extend([movz(1), 0xd518_cce4]); // msr ICC_IGRPEN1_EL1, x4
    code.push(0x5280_000c); // movz w12, #0
    code.push(movz(u32::from(b'r')));
    code.extend(send_w4());
    let top = code.len();
    code.push(0xd538_cc0b); // mrs x11, ICC_IAR1_EL1
    code.push(0x7100_001f | 1023 << 10 | 11 << 5); // cmp w11, #1023
    code.push(0x54ff_ffc0); // b.eq -8
    code.push(0x1100_058c); // add w12, w12, #1
    code.push(0x3900_80ec); // strb w12, [x7, #32]
    code.push(0x3940_80ed); // ldrb w13, [x7, #32]: the write has arrived before the interrupt ends
    code.push(0xd518_cc2b); // msr ICC_EOIR1_EL1, x11
    code.push(0x1100_0004 | 32 << 10 | 11 << 5); // add w4, w11, #32: `I` for 41
    code.extend(send_w4());
    let back = u32::try_from(code.len() - top).unwrap();
    code.push(0x1400_0000 | 0u32.wrapping_sub(back) & 0x03ff_ffff); // b top
    image(&code)
}
