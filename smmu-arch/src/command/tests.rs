// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands as a driver writes them, and as one must not.

use super::{
    Action, AddressRange, ConfigurationInvalidation, Illegal, StreamRange, TranslationInvalidation, decode,
};
use crate::addr::{StreamId, SubstreamId};
use crate::model::{Granule, MODEL_NAME, Model, Options};
use crate::spec::commands::{
    CfgiQw1, Command, ComplSignal, InvalidationGranule, Opcode, StreamQw0, SyncQw0, TlbiQw0, TlbiQw1,
};
use proptest::prelude::*;

fn model() -> Model {
    Model::new(MODEL_NAME, Options::default()).unwrap()
}

fn stream_command(opcode: Opcode, stream: u32) -> Command {
    Command { qw0: StreamQw0::new().with_opcode(opcode).with_stream_id(stream).into_bits(), qw1: 0 }
}

fn tlbi(opcode: Opcode, qw0: TlbiQw0, qw1: TlbiQw1) -> Command {
    Command { qw0: qw0.with_opcode(opcode).into_bits(), qw1: qw1.into_bits() }
}

#[test]
fn configuration_commands_name_their_streams() {
    let model = model();
    let ste = decode(&model, &stream_command(Opcode::CfgiSte, 0x123)).unwrap();
    let one = StreamRange::one(StreamId(0x123));
    assert_eq!(ste, Action::Configuration(ConfigurationInvalidation::Streams(one)));

    let mut range = stream_command(Opcode::CfgiSteRange, 0x123);
    range.qw1 = CfgiQw1::new().with_range(7).into_bits();
    let aligned = StreamRange { first: StreamId(0x100), last: StreamId(0x1ff) };
    assert_eq!(
        decode(&model, &range),
        Ok(Action::Configuration(ConfigurationInvalidation::Streams(aligned)))
    );
    range.qw1 = CfgiQw1::new().with_range(31).into_bits();
    let all = Action::Configuration(ConfigurationInvalidation::Streams(StreamRange::ALL));
    assert_eq!(decode(&model, &range), Ok(all));

    let mut context = stream_command(Opcode::CfgiCd, 5);
    context.qw0 = context.stream_qw0().with_ssv(true).with_substream_id(9).into_bits();
    assert_eq!(
        decode(&model, &context),
        Ok(Action::Configuration(ConfigurationInvalidation::Context(StreamId(5), SubstreamId(9))))
    );
}

#[test]
fn secure_stream_on_the_non_secure_queue_is_illegal() {
    for opcode in
        [Opcode::PrefetchConfig, Opcode::CfgiSte, Opcode::CfgiSteRange, Opcode::CfgiCd, Opcode::CfgiCdAll]
    {
        let mut command = stream_command(opcode, 1);
        assert!(decode(&model(), &command).is_ok());
        command.qw0 = command.stream_qw0().with_ssec(true).into_bits();
        assert_eq!(decode(&model(), &command), Err(Illegal), "{opcode:?}");
    }
}

#[test]
fn commands_of_absent_features_are_illegal() {
    for opcode in [
        Opcode::CfgiVmsPidm,
        Opcode::TlbiEl3All,
        Opcode::TlbiEl3Va,
        Opcode::TlbiEl2All,
        Opcode::TlbiEl2Asid,
        Opcode::TlbiEl2Va,
        Opcode::TlbiEl2Vaa,
        Opcode::TlbiS12Vmall,
        Opcode::TlbiS2Ipa,
        Opcode::AtcInv,
        Opcode::PriResp,
        Opcode::Resume,
        Opcode::StallTerm,
        Opcode::DptiAll,
        Opcode::DptiPa,
        Opcode(0),
        Opcode(0xff),
        Opcode(0x60),
    ] {
        assert_eq!(decode(&model(), &stream_command(opcode, 0)), Err(Illegal), "{opcode:?}");
    }
}

#[test]
fn ranges_follow_num_scale_and_granule() {
    let address = TlbiQw1::new().with_address_63_12(0xffff_8000_0004_0000 >> 12).with_leaf(true);
    let whole = TlbiQw0::new().with_asid(7).with_num(3).with_scale(2);
    let command = tlbi(Opcode::TlbiNhVa, whole, address.with_tg(InvalidationGranule::Granule64K).with_ttl(3));
    let expected = AddressRange {
        first: 0xffff_8000_0004_0000,
        last: 0xffff_8000_0004_0000 + 16 * 0x1_0000 - 1,
        granule: Some(Granule::Size64K),
        level: Some(3),
        leaf: true,
    };
    let decoded = decode(&model(), &command);
    assert_eq!(decoded, Ok(Action::Translation(TranslationInvalidation::Addresses(expected, Some(7)))));

    // Without a granule there is no range and no hint, whatever NUM, SCALE and TTL say.
    let command = tlbi(Opcode::TlbiNhVaa, whole, address.with_ttl(2));
    let one = AddressRange { last: expected.first + 0xfff, granule: None, level: None, ..expected };
    assert_eq!(
        decode(&model(), &command),
        Ok(Action::Translation(TranslationInvalidation::Addresses(one, None)))
    );
}

#[test]
fn granule_without_range_or_level_is_illegal_only_with_range_invalidation() {
    let qw1 = TlbiQw1::new().with_tg(InvalidationGranule::Granule4K);
    let command = tlbi(Opcode::TlbiNhVa, TlbiQw0::new(), qw1);
    assert_eq!(decode(&model(), &command), Err(Illegal));
    // Level 1 does not exist for 16 KiB tables: the hint counts as none.
    let qw1 = TlbiQw1::new().with_tg(InvalidationGranule::Granule16K).with_ttl(1);
    assert_eq!(decode(&model(), &tlbi(Opcode::TlbiNhVa, TlbiQw0::new(), qw1)), Err(Illegal));

    let without = Model::new(MODEL_NAME, Options { ril: false, ..Options::default() }).unwrap();
    assert!(decode(&without, &command).is_ok());
}

#[test]
fn sync_signals_are_known_ones() {
    let sync = |cs| Command { qw0: SyncQw0::new().with_opcode(Opcode::Sync).with_cs(cs).into_bits(), qw1: 0 };
    assert_eq!(decode(&model(), &sync(ComplSignal::Irq)), Ok(Action::Sync(ComplSignal::Irq)));
    assert_eq!(decode(&model(), &sync(ComplSignal(3))), Err(Illegal));
}

proptest! {
    /// Any 16 bytes decode to something or are illegal, and a range never runs backwards.
    #[test]
    fn any_command_decodes_or_is_illegal(qw0: u64, qw1: u64, opcode in 0u8..=0x7f) {
        let command = Command { qw0: qw0 & !0xff | u64::from(opcode), qw1 };
        if let Ok(Action::Translation(TranslationInvalidation::Addresses(range, _))) = decode(&model(), &command) {
            prop_assert!(range.first <= range.last);
            prop_assert_eq!(range.first & 0xfff, 0);
        }
    }
}
