// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of each version, which other builds have sent and will send: they never change.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use ipc::saved::{Reader, Writer};

use super::*;

fn v1() -> NvmeV1 {
    NvmeV1 {
        namespace: NamespaceV1 { serial: "S1".to_owned(), block_shift: 9, blocks: 300 },
        config: vec![1, 2],
        msix: vec![3],
        cc: 0x0046_0001,
        csts: 1,
        aqa: 0x001f_001f,
        asq: 0x1000,
        acq: 0x2000,
        shutdown_wanted: true,
        submission: vec![SubmissionQueueV1 { id: 1, base: 0x3000, size: 64, head: 5, tail: 6, cqid: 2 }],
        completion: vec![CompletionQueueV1 {
            id: 2,
            base: 0x4000,
            size: 32,
            head: 7,
            tail: 8,
            phase: true,
            vector: Some(3),
            held: vec![CompletedV1 { dw0: 9, sqid: 1, cid: 10, status: 11 }],
        }],
        features: FeaturesV1 {
            arbitration: 12,
            temperature_over: 13,
            temperature_under: 14,
            error_recovery: 15,
            write_cache: true,
            coalescing: 16,
            coalescing_disabled: 17,
            write_atomicity: 18,
            event_configuration: 19,
        },
        event_requests: vec![20],
        events_pending: vec![21],
        events_masked: 22,
        counters: CountersV1 {
            bytes_read: 23,
            bytes_written: 24,
            reads: 25,
            writes: 26,
            media_errors: 27,
            power_cycles: 28,
            unsafe_shutdowns: 29,
        },
        error_count: 30,
        errors: vec![vec![31, 32]],
    }
}

fn v2() -> NvmeV2 {
    NvmeV2 { v1: v1(), shadow: Some(ShadowV2 { doorbells: 0x5000, event_indices: 0x6000 }) }
}

fn stream<T: SavedState>(state: &T) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.append(state).unwrap();
    writer.finish()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bytes_of_every_version_stay_what_they_were() {
    assert_eq!(hex(&stream(&v1())), V1);
    assert_eq!(hex(&stream(&v2())), V2);
}

#[test]
fn state_of_the_version_before_has_its_doorbells_in_registers() {
    let taken = |stream: &[u8]| {
        let state = Reader::new(stream).unwrap().take_or_previous::<NvmeV2, NvmeV1>();
        state.map_err(StateError::from)
    };
    assert_eq!(taken(&stream(&v1())), Ok(NvmeV2 { v1: v1(), shadow: None }));
    assert_eq!(taken(&stream(&v2())), Ok(v2()));
    assert!(matches!(taken(&Writer::new().finish()), Err(StateError::Stream(SavedError::Missing { .. }))));
}

const V1: &str = "424b5355010001006e766d650000000000000000000000004a00000019b29e9f0000000002533109ac02020102010381809802019f807c8020804001010180604005060201028080012007080101030109010a0b0c0d0e0f011011121301140115161718191a1b1c1d1e01021f20";
const V2: &str = "424b5355010002006e766d650000000000000000000000005100000059c7a99e0000000002533109ac02020102010381809802019f807c8020804001010180604005060201028080012007080101030109010a0b0c0d0e0f011011121301140115161718191a1b1c1d1e01021f200180a00180c001";
