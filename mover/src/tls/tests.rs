// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who is let in, and who is not.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Identity, accepting, connecting};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Host {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn host(&self, name: &str) -> Host {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Host { chain, key: key.serialize_pem() }
    }
}

fn identity<'a>(authority: &'a Authority, host: &'a Host) -> Identity<'a> {
    Identity { authority: authority.pem.as_bytes(), chain: host.chain.as_bytes(), key: host.key.as_bytes() }
}

/// Connects, and says whether both ends have heard each other.
async fn meet(
    here: Identity<'_>,
    expected_there: &str,
    there: Identity<'_>,
    expected_here: &str,
) -> Result<(), String> {
    let (config, name) = connecting(&here, expected_there).unwrap();
    let accepting = TlsAcceptor::from(accepting(&there, expected_here).unwrap());
    let (one, other) = duplex(4096);
    let connect = async {
        let mut stream = TlsConnector::from(config).connect(name, one).await?;
        stream.write_all(b"hello").await?;
        // A client is told that it was refused behind the handshake.
        stream.read_u8().await
    };
    let accept = async {
        let mut stream = accepting.accept(other).await?;
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        stream.write_u8(1).await?;
        stream.flush().await
    };
    let (connected, accepted) = tokio::join!(connect, accept);
    accepted.map_err(|error| format!("accepting: {error}"))?;
    connected.map(drop).map_err(|error| format!("connecting: {error}"))
}

#[tokio::test]
async fn hosts_of_one_authority_with_the_expected_names_meet() {
    let authority = Authority::new();
    let (a, b) = (authority.host("a.example"), authority.host("b.example"));
    meet(identity(&authority, &a), "b.example", identity(&authority, &b), "a.example").await.unwrap();
}

#[tokio::test]
async fn another_name_is_refused_on_either_side() {
    let authority = Authority::new();
    let (a, b, c) = (authority.host("a.example"), authority.host("b.example"), authority.host("c.example"));
    let refused = meet(identity(&authority, &a), "b.example", identity(&authority, &c), "a.example").await;
    assert!(refused.is_err(), "the end that accepts is another host");
    let refused = meet(identity(&authority, &c), "b.example", identity(&authority, &b), "a.example").await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("NotValidForName"), "the end that connects is another host: {refused}");
}

#[tokio::test]
async fn another_authority_is_refused_on_either_side() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (a, b) = (authority.host("a.example"), authority.host("b.example"));
    let (a2, b2) = (other.host("a.example"), other.host("b.example"));
    let foreign = |host| Identity { authority: authority.pem.as_bytes(), ..identity(&other, host) };
    assert!(meet(foreign(&a2), "b.example", identity(&authority, &b), "a.example").await.is_err());
    assert!(meet(identity(&authority, &a), "b.example", foreign(&b2), "a.example").await.is_err());
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let authority = Authority::new();
    let a = authority.host("a.example");
    let good = identity(&authority, &a);
    for (bad, what) in [
        (Identity { authority: b"", ..good }, "authority's certificate"),
        (Identity { key: good.chain, ..good }, "private key"),
        (Identity { chain: b"no pem", ..good }, "certificate"),
    ] {
        let error = connecting(&bad, "b.example").unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(connecting(&good, "not a name!").unwrap_err().to_string().contains("no name of a host"));
}
