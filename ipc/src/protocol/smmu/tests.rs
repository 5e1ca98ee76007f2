// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model that no SMMU can have is no message: whoever receives one need not check it again.

use super::{Granules, Model, Options};

/// What a peer could send in a model's place.
fn decoded(name: &str, options: Options) -> Option<Model> {
    let bytes = postcard::to_stdvec(&(name, options)).unwrap();
    postcard::from_bytes(&bytes).ok()
}

#[test]
fn model_decodes_to_what_was_encoded() {
    let bytes = postcard::to_stdvec(&Model::default()).unwrap();
    assert_eq!(postcard::from_bytes::<Model>(&bytes), Ok(Model::default()));
    assert_eq!(decoded("bulkhead-smmu-1", Options::default()), Some(Model::default()));
}

#[test]
fn model_that_no_smmu_can_have_does_not_decode() {
    let default = Options::default();
    assert_eq!(decoded("bulkhead-smmu-9", default), None);
    for options in [
        Options { sidsize: 0, ..default },
        Options { ssidsize: 21, ..default },
        Options { oas: 41, ..default },
        Options { granules: Granules::NONE, ..default },
        Options { stream_table_levels: 1, ..default },
    ] {
        assert_eq!(decoded("bulkhead-smmu-1", options), None, "{options:?}");
    }
}
