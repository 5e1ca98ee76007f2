// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The units of the devices in the vCPU process, byte for byte.

use super::*;

fn uart() -> UartV1 {
    UartV1 {
        baud_divisor_low: 0x0c,
        baud_divisor_high: 1,
        interrupt_enable: 5,
        interrupt_identification: 2,
        line_control: 3,
        line_status: 0x60,
        modem_control: 8,
        modem_status: 0xb0,
        scratch: 0x5a,
        input: b"typed".to_vec(),
        undelivered_output: b"printed".to_vec(),
    }
}

fn rtc() -> RtcV1 {
    RtcV1 { lr: 0x6a00_0000, offset: -2, mr: 0x6b00_0000, imsc: 1, ris: 1, alarm: 0x1_6b00_0000 }
}

/// Version 1 as it was frozen. Other bytes are another version.
const GOLDEN: &str = include_str!("golden.hex");

fn golden() -> Vec<u8> {
    let digits: Vec<u8> = GOLDEN.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn saved_devices_have_the_bytes_of_version_1_and_are_read_back() {
    let mut writer = Writer::new();
    writer.append(&UartUnit(uart())).unwrap();
    writer.append(&RtcUnit(rtc())).unwrap();
    let bytes = writer.finish();
    assert_eq!(bytes, golden(), "now {}", hex(&bytes));
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.take::<UartUnit>().unwrap().0, uart());
    assert_eq!(reader.take::<RtcUnit>().unwrap().0, rtc());
    reader.finish().unwrap();
}

/// As a golden file has it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}
