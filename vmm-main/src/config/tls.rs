// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who this host is to another one, and whom it believes, when a guest moves between the two: the files and the name.
//!
//! All of it or nothing: half an identity is a mistake. What is in the files only the mover reads, and says what is
//! wrong with it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// One layer: flags of `receive` and `migrate`, and `[tls]` of a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct TlsSettings {
    /// TLS: certificate of the authority that has signed both hosts' certificates (PEM)
    #[arg(id = "tls-ca", long = "tls-ca", value_name = "FILE", help_heading = "Migration")]
    pub ca: Option<PathBuf>,
    /// TLS: this host's certificate, and those between it and the authority (PEM)
    #[arg(id = "tls-cert", long = "tls-cert", value_name = "FILE", help_heading = "Migration")]
    pub cert: Option<PathBuf>,
    /// TLS: this host's private key (PEM)
    #[arg(id = "tls-key", long = "tls-key", value_name = "FILE", help_heading = "Migration")]
    pub key: Option<PathBuf>,
    /// TLS: the name that the other host's certificate must have
    #[arg(id = "tls-peer", long = "tls-peer", value_name = "NAME", help_heading = "Migration")]
    pub peer: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// This host's, and those between.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The other host's name.
    pub peer: String,
}

impl TlsSettings {
    /// Takes from `below` what this layer leaves open.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            ca: self.ca.or(below.ca),
            cert: self.cert.or(below.cert),
            key: self.key.or(below.key),
            peer: self.peer.or(below.peer),
        }
    }

    /// The same with paths that are relative to this folder.
    #[must_use]
    pub fn relative_to(self, folder: &Path) -> Self {
        let join = |path: PathBuf| folder.join(path);
        Self { ca: self.ca.map(join), cert: self.cert.map(join), key: self.key.map(join), peer: self.peer }
    }

    /// The whole of it; none if nothing is given.
    ///
    /// # Errors
    /// If only a part is given.
    pub fn resolve(self) -> Result<Option<Tls>, Problem> {
        let Self { ca, cert, key, peer } = self;
        let given = [
            ("ca", ca.is_some()),
            ("cert", cert.is_some()),
            ("key", key.is_some()),
            ("peer", peer.is_some()),
        ];
        match (ca, cert, key, peer) {
            (Some(ca), Some(cert), Some(key), Some(peer)) => Ok(Some(Tls { ca, cert, key, peer })),
            (None, None, None, None) => Ok(None),
            _ => {
                let missing =
                    given.iter().filter(|(_, given)| !given).map(|(name, _)| format!("--tls-{name}"));
                let missing: Vec<String> = missing.collect();
                Err(Problem::usage(
                    format!("only a part of what TLS needs is given: {} not", missing.join(", ")),
                    "--tls-*",
                    "give all four of --tls-ca, --tls-cert, --tls-key and --tls-peer, or the same keys of [tls]",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_given_whole_or_not_at_all_and_flags_win_over_the_file() {
        assert_eq!(TlsSettings::default().resolve(), Ok(None));
        let of_file = TlsSettings {
            ca: Some("ca.pem".into()),
            cert: Some("cert.pem".into()),
            key: Some("/keys/key.pem".into()),
            peer: Some("host-b".to_owned()),
        };
        let flags = TlsSettings { peer: Some("host-c".to_owned()), ..TlsSettings::default() };
        let all = flags.over(of_file.clone().relative_to(Path::new("/etc/vm"))).resolve().unwrap().unwrap();
        let expected = ["/etc/vm/ca.pem", "/etc/vm/cert.pem", "/keys/key.pem"].map(PathBuf::from);
        assert_eq!(([all.ca, all.cert, all.key], all.peer.as_str()), (expected, "host-c"));
        let lacks_key = TlsSettings { key: None, ..of_file.clone() }.resolve().unwrap_err();
        assert!(lacks_key.what.contains(": --tls-key not"), "{lacks_key}");
        let lacks_more = TlsSettings { peer: None, ca: None, ..of_file }.resolve().unwrap_err();
        assert!(lacks_more.what.contains(": --tls-ca, --tls-peer not"), "{lacks_more}");
    }
}
