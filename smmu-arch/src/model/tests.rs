// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The profile's numbers are part of every guest's machine: they may not move.

use super::{MODEL_NAME, Model, ModelError, Options};

fn make(change: impl FnOnce(&mut Options)) -> Result<Model, ModelError> {
    let mut options = Options::default();
    change(&mut options);
    Model::new(MODEL_NAME, options)
}

#[test]
fn default_profile_advertises_these_numbers_for_ever() {
    let model = make(|_| {}).unwrap();
    assert_eq!(u32::from(model.idr0()), 0x0d40_101a);
    assert_eq!(u32::from(model.idr1()), 0x018c_0010);
    assert_eq!(u32::from(model.idr3()), 0x0000_0404);
    assert_eq!(u32::from(model.idr5()), 0x0000_0074);
    assert_eq!(u32::from(model.iidr()), 0);
    assert_eq!(u32::from(model.aidr()), 1);
}

#[test]
fn options_show_in_the_identification_registers() {
    let model = make(|o| {
        o.substream_id_bits = 20;
        o.output_address_bits = 48;
        o.granule_16k = false;
        o.range_invalidation = false;
        o.stream_table_levels = 1;
        o.stream_id_bits = 6;
    })
    .unwrap();
    assert_eq!((model.idr1().ssidsize(), model.idr1().sidsize()), (20, 6));
    assert!(model.idr0().cd2l() && !model.idr3().ril() && !model.idr5().gran16k());
    assert_eq!(model.idr5().oas().bits(), 48);
    assert_eq!(model.idr0().st_level().0, 0);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    assert_eq!(make(|o| o.substream_id_bits = 21), Err(ModelError::SubstreamIdBits(21)));
    assert_eq!(make(|o| o.output_address_bits = 52), Err(ModelError::OutputAddressBits(52)));
    assert_eq!(make(|o| o.stream_id_bits = 0), Err(ModelError::StreamIdBits(0)));
    assert_eq!(make(|o| o.stream_id_bits = 33), Err(ModelError::StreamIdBits(33)));
    assert_eq!(make(|o| o.stream_table_levels = 3), Err(ModelError::StreamTableLevels(3)));
    assert_eq!(make(|o| o.stream_table_levels = 1), Err(ModelError::LinearTableTooLarge(16)));
    let none = make(|o| (o.granule_4k, o.granule_16k, o.granule_64k) = (false, false, false));
    assert_eq!(none, Err(ModelError::NoGranule));
    assert_eq!(
        Model::new("bulkhead-smmu-2", Options::default()),
        Err(ModelError::UnknownName("bulkhead-smmu-2".to_owned()))
    );
}

#[test]
fn truncation_follows_the_output_address_size() {
    let model = make(|_| {}).unwrap();
    assert_eq!(model.truncate(0xabcd_1234_5678_9abc), 0x0234_5678_9abc);
    assert!(model.in_range(0xfff_ffff_ffff) && !model.in_range(0x1000_0000_0000));
}
