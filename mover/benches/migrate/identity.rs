// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two hosts with certificates of one authority.

use mover::tls::Identity;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Their names: who connects, and who is connected to.
pub const PEERS: [&str; 2] = ["near", "far"];

/// A host's files.
pub struct Pems {
    pub authority: String,
    pub chain: String,
    pub key: String,
}

impl Pems {
    pub fn identity(&self) -> Identity<'_> {
        Identity {
            authority: self.authority.as_bytes(),
            chain: self.chain.as_bytes(),
            key: self.key.as_bytes(),
        }
    }
}

/// Those of both.
pub fn pems() -> [Pems; 2] {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    PEERS.map(|name| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let chain = params.signed_by(&key, &authority).unwrap().pem();
        Pems { authority: authority.pem(), chain, key: key.serialize_pem() }
    })
}
