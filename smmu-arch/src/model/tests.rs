// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The profile's numbers are part of every guest's machine: they may not move.

use super::{Granules, MODEL_NAME, Model, ModelError, Options};

fn make(change: impl FnOnce(&mut Options)) -> Result<Model, ModelError> {
    let mut options = Options::default();
    change(&mut options);
    Model::new(MODEL_NAME, options)
}

#[test]
fn default_profile_advertises_these_numbers_for_ever() {
    let model = make(|_| {}).unwrap();
    assert_eq!(model, Model::default());
    assert_eq!(u32::from(model.idr0()), 0x0d48_101a);
    assert_eq!(u32::from(model.idr1()), 0x018c_0410);
    assert_eq!(u32::from(model.idr3()), 0x0000_0404);
    assert_eq!(u32::from(model.idr5()), 0x0000_0072);
    assert_eq!(u32::from(model.iidr()), 0);
    assert_eq!(u32::from(model.aidr()), 1);
}

#[test]
fn options_show_in_the_identification_registers() {
    let model = make(|o| {
        o.ssidsize = 20;
        o.oas = 48;
        o.granules.gran16k = false;
        o.ril = false;
        o.stream_table_levels = 1;
        o.sidsize = 6;
    })
    .unwrap();
    assert_eq!((model.idr1().ssidsize(), model.idr1().sidsize()), (20, 6));
    assert!(model.idr0().cd2l() && !model.idr3().ril() && !model.idr5().gran16k());
    assert_eq!(model.idr5().oas().bits(), 48);
    assert_eq!(model.idr0().st_level().0, 0);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    assert_eq!(make(|o| o.ssidsize = 21), Err(ModelError::Ssidsize(21)));
    assert_eq!(make(|o| o.oas = 52), Err(ModelError::Oas(52)));
    assert_eq!(make(|o| o.sidsize = 0), Err(ModelError::Sidsize(0)));
    assert_eq!(make(|o| o.sidsize = 33), Err(ModelError::Sidsize(33)));
    assert_eq!(make(|o| o.stream_table_levels = 3), Err(ModelError::StreamTableLevels(3)));
    assert_eq!(make(|o| o.stream_table_levels = 1), Err(ModelError::LinearTableTooLarge(16)));
    let none = make(|o| o.granules = Granules::NONE);
    assert_eq!(none, Err(ModelError::NoGranule));
    assert_eq!(
        Model::new("bulkhead-smmu-2", Options::default()),
        Err(ModelError::UnknownName("bulkhead-smmu-2".to_owned()))
    );
}

#[test]
fn truncation_follows_the_output_address_size() {
    let model = make(|_| {}).unwrap();
    assert_eq!(model.truncate(0xabcd_1234_5678_9abc), 0x0034_5678_9abc);
    assert!(model.in_range(0xff_ffff_ffff) && !model.in_range(0x100_0000_0000));
}
