// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migrations over TLS: each end with a certificate of one authority, and with another one's.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use ipc::protocol::mover::{IdentityFile, MoverNotice, MoverRequest, Packing, Security, Side};
use ipc::shm::memory_file;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustix::fs::SealFlags;

use crate::{MIGRATION, Mover, memory, moves, pair};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn sealed(text: &str) -> OwnedFd {
    let mut file = File::from(memory_file::create("identity").unwrap());
    file.write_all(text.as_bytes()).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    file.into()
}

/// A mover of a host of this name, which expects a peer of that name.
fn host(side: Side, authority: &Authority, name: &str, peer: &str) -> Mover {
    host_with(side, authority, CertificateParams::new(vec![name.to_owned()]).unwrap(), peer)
}

/// The same with a certificate that has expired.
fn late_host(side: Side, authority: &Authority, name: &str, peer: &str) -> Mover {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    host_with(side, authority, params, peer)
}

fn host_with(side: Side, authority: &Authority, params: CertificateParams, peer: &str) -> Mover {
    host_believing(side, &authority.pem(), authority, params, peer)
}

/// The same, which believes these authorities.
fn host_believing(
    side: Side,
    believed: &str,
    authority: &Authority,
    params: CertificateParams,
    peer: &str,
) -> Mover {
    let mut mover = Mover::start(side, Security::Tls { peer: peer.to_owned() });
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    for (file, text) in [
        (IdentityFile::Authority, believed.to_owned()),
        (IdentityFile::Chain, certificate.pem()),
        (IdentityFile::Key, key.serialize_pem()),
    ] {
        mover.give(MoverRequest::TakeIdentity(file), sealed(&text)).unwrap();
    }
    mover
}

fn source(lane_count: u8) -> Side {
    Side::Source { migration: MIGRATION, lane_count, packing: Packing::Plain }
}

fn connect(here: &mut Mover, there: &mut Mover, lane_count: u8) {
    for index in 0..lane_count {
        let (near, far) = pair();
        here.give(MoverRequest::TakeLane { index }, near).unwrap();
        there.give(MoverRequest::TakeLane { index }, far).unwrap();
    }
}

#[test]
fn guest_moves_over_tls() {
    for lane_count in [1, 3] {
        let authority = authority();
        let mut here = host(source(lane_count), &authority, "host-a", "host-b");
        let mut there = host(Side::Destination, &authority, "host-b", "host-a");
        connect(&mut here, &mut there, lane_count);
        crate::await_connected(&here, &there, lane_count);
        moves::carry(&mut here, &mut there);
        there.ask(MoverRequest::Say(b"running".to_vec()));
        there.ask(MoverRequest::Close);
        assert_eq!(here.notice(), MoverNotice::Heard(b"running".to_vec()));
        here.close_whatever_comes();
        assert_eq!(there.notice(), MoverNotice::Closed);
    }
}

#[test]
fn host_of_another_name_or_authority_or_without_tls_is_none() {
    let (ours, theirs) = (authority(), authority());
    let destination = || host(Side::Destination, &ours, "host-b", "host-a");
    // Whom the source does not believe, it says; whom the destination does not believe, it closes, and waits on.
    let mut there = destination();
    for mut here in [host(source(1), &ours, "host-a", "host-c"), host(source(1), &theirs, "host-a", "host-b")]
    {
        connect(&mut here, &mut there, 1);
        let reason = here.lost();
        assert!(reason.contains("certificate"), "{reason}");
    }
    let late = late_host(source(1), &ours, "host-a", "host-b");
    for mut wrong in
        [host(source(1), &ours, "host-c", "host-b"), late, Mover::start(source(1), Security::Plain)]
    {
        connect(&mut wrong, &mut there, 1);
        let _reason = wrong.lost();
    }
    let mut here = host(source(1), &ours, "host-a", "host-b");
    connect(&mut here, &mut there, 1);
    crate::await_connected(&here, &there, 1);
    let mut late = late_host(Side::Destination, &ours, "host-b", "host-a");
    let mut here = host(source(1), &ours, "host-a", "host-b");
    connect(&mut here, &mut late, 1);
    let reason = here.lost();
    assert!(reason.contains("xpired"), "{reason}");
}

#[test]
fn each_authority_of_a_file_is_believed() {
    let (first, second, other) = (authority(), authority(), authority());
    let both = format!("{}{}", first.pem(), second.pem());
    let params = |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap();
    let source = |of| host_believing(source(1), &both, of, params("host-a"), "host-b");
    let destination = |of| host_believing(Side::Destination, &both, of, params("host-b"), "host-a");
    // A peer of each, at either end.
    for (ours, theirs) in [(&first, &second), (&second, &first)] {
        let (mut here, mut there) = (source(ours), destination(theirs));
        connect(&mut here, &mut there, 1);
        crate::await_connected(&here, &there, 1);
    }
    let (mut here, mut there) = (source(&first), destination(&other));
    connect(&mut here, &mut there, 1);
    let reason = here.lost();
    assert!(reason.contains("certificate"), "{reason}");
}

#[test]
fn identity_is_whole_sealed_and_used_once() {
    let authority = authority();
    let mut mover = Mover::start(source(1), Security::Tls { peer: "host-b".to_owned() });
    let open = mover.give(MoverRequest::TakeIdentity(IdentityFile::Key), memory(b"key")).unwrap_err();
    assert!(open.why.contains("not sealed"), "{open:?}");
    let long = mover.give(MoverRequest::TakeIdentity(IdentityFile::Key), sealed(&"x".repeat((1 << 20) + 1)));
    assert!(long.unwrap_err().why.contains("1 MiB"));
    mover.give(MoverRequest::TakeIdentity(IdentityFile::Authority), sealed(&authority.pem())).unwrap();
    let twice = mover.give(MoverRequest::TakeIdentity(IdentityFile::Authority), sealed(&authority.pem()));
    assert!(twice.unwrap_err().why.contains("already"));
    let missing = mover.give(MoverRequest::TakeLane { index: 0 }, pair().0).unwrap_err();
    assert!(missing.why.contains("no certificate"), "{missing:?}");
    let again = mover.give(MoverRequest::TakeLane { index: 0 }, pair().0).unwrap_err();
    assert!(again.why.contains("cannot be used"), "{again:?}");
    mover.close();
}

#[test]
fn identity_that_is_of_no_use_is_refused_before_anybody_connects() {
    let authority = authority();
    let other = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["host-a".to_owned()]).unwrap().signed_by(&other, &authority);
    let chain = certificate.unwrap().pem();
    for side in [source(1), Side::Destination] {
        for (key, why) in [
            // Of another certificate.
            (KeyPair::generate().unwrap().serialize_pem(), "the private key is not that of the certificate"),
            ("no key at all".to_owned(), "private key is not usable"),
        ] {
            let mut mover = Mover::start(side.clone(), Security::Tls { peer: "host-b".to_owned() });
            for (file, text) in
                [(IdentityFile::Authority, authority.pem()), (IdentityFile::Chain, chain.clone())]
            {
                mover.give(MoverRequest::TakeIdentity(file), sealed(&text)).unwrap();
            }
            let refused =
                mover.give(MoverRequest::TakeIdentity(IdentityFile::Key), sealed(&key)).unwrap_err();
            assert!(refused.why.contains(why), "{refused:?}");
            assert!(mover.give(MoverRequest::TakeLane { index: 0 }, pair().0).is_err());
            mover.close();
        }
    }
}

#[test]
fn mover_without_a_whole_identity_closes_at_either_end_and_at_any_time() {
    let security = || Security::Tls { peer: "host-b".to_owned() };
    for side in [source(2), Side::Destination] {
        // Before its first connection, and behind the one that it could not use.
        let mut unconnected = Mover::start(side.clone(), security());
        unconnected.close();
        let mut refused = Mover::start(side, security());
        let taken: Vec<_> =
            (0..2).map(|index| refused.give(MoverRequest::TakeLane { index }, pair().0).is_ok()).collect();
        assert!(!taken[1], "{taken:?}");
        let order = refused.life.carry(MoverRequest::Say(b"a message".to_vec()), None);
        assert!(order.is_err(), "nobody would send it");
        refused.close();
    }
}
