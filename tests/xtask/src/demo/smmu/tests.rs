// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Driver logs as a boot prints them, good and with one thing wrong.

use super::check;

const GOOD: &str = "[    0.4] arm-smmu-v3 9050000.iommu: ias 40-bit, oas 40-bit (features 0x00008307)\n\
                    [    0.4] arm-smmu-v3 9050000.iommu: allocated 524288 entries for cmdq\n\
                    [    0.5] arm-smmu-v3 9050000.iommu: allocated 524288 entries for evtq\n";

#[test]
fn log_with_our_features_is_accepted() {
    assert!(check(GOOD).unwrap().contains("0x00008307"));
}

#[test]
fn log_lacking_a_feature_names_it() {
    let error = check(&GOOD.replace("0x00008307", "0x00000307")).unwrap_err().to_string();
    assert!(error.contains("RANGE_INV"), "{error}");
}

#[test]
fn log_with_a_feature_too_many_names_it() {
    let error = check(&GOOD.replace("0x00008307", "0x00008327")).unwrap_err().to_string();
    assert!(error.contains("ATS"), "{error}");
}

#[test]
fn log_without_queues_or_with_complaints_is_refused() {
    assert!(check(&GOOD.replace("evtq", "nothing")).is_err());
    let error = check(&format!("{GOOD}arm-smmu-v3 9050000.iommu: CMD_SYNC timeout at 0x3\n")).unwrap_err();
    assert!(error.to_string().contains("CMD_SYNC timeout"));
}

#[test]
fn log_without_the_driver_is_refused() {
    assert!(check("").is_err());
    assert!(check("iommu: Default domain type: Translated").is_err());
}
