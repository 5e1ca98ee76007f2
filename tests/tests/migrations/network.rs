// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest moves between two hosts over TLS, each in a network namespace with a runtime folder of its own; and whoever
//! is not the host that is expected there gets no guest, and gives none.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tests::SKIPPED;
use tests::hosts::{ADDRESSES, Hosts};
use tests::vm::Vm;

use crate::support::COMMAND;
use crate::{machine, moved_to, number, running};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The files of both hosts, and of others.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        let (ours, theirs) = (files.authority("ca"), files.authority("other-ca"));
        files.host("host-a", &ours, false);
        files.host("host-b", &ours, false);
        files.host("host-c", &ours, false);
        files.host("late", &ours, true);
        files.host("foreign", &theirs, false);
        std::fs::write(files.path("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn authority(&self, name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), authority.pem()).unwrap();
        authority
    }

    /// A host's certificate and key. Those of `host-a` that are in files of another name are what is wrong with them.
    fn host(&self, file: &str, authority: &Authority, has_expired: bool) {
        let name = if matches!(file, "late" | "foreign") { "host-a" } else { file };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if has_expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let certificate = params.signed_by(&key, authority).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}-key.pem")), key.serialize_pem()).unwrap();
    }

    /// The flags of a host with these files, whose peer has this name.
    pub fn flags(&self, ca: &str, host: &str, peer: &str) -> Vec<String> {
        let file = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (ca, cert) = (file(&format!("{ca}.pem")), file(&format!("{host}.pem")));
        let (key, peer) = (file(&format!("{host}-key.pem")), peer.to_owned());
        let secret = file("secret");
        let flags = [("ca", ca), ("cert", cert), ("key", key), ("peer", peer)];
        let flags = flags.into_iter().flat_map(|(flag, value)| [format!("--tls-{flag}"), value]);
        flags.chain(["--secret-file".to_owned(), secret]).collect()
    }

    /// A configuration file that says the same with paths of its own folder.
    fn config(&self, host: &str, peer: &str) -> PathBuf {
        let tls = format!(
            "[tls]\nca = \"ca.pem\"\ncert = \"{host}.pem\"\nkey = \"{host}-key.pem\"\npeer = \"{peer}\"\n"
        );
        let path = self.path("vm.toml");
        std::fs::write(&path, tls).unwrap();
        path
    }

    fn secret(&self) -> PathBuf {
        self.path("secret")
    }
}

/// Two hosts that know each other.
pub struct Network {
    hosts: Hosts,
    files: Files,
}

impl Network {
    /// None, if this machine makes no namespaces.
    pub fn make() -> Option<Self> {
        match Hosts::make().unwrap() {
            Ok(hosts) => Some(Self { hosts, files: Files::new() }),
            Err(why) => {
                println!("{SKIPPED}between two hosts: {why}");
                None
            }
        }
    }

    /// Program and arguments that run another one on this host.
    pub fn under(&self, host: usize) -> Vec<String> {
        self.hosts.under(host)
    }

    /// Moves the guest to this host from the other one over TLS, and returns where it is, with the report.
    pub fn moved(&self, vm: Vm, host: usize, arguments: &[&str]) -> (Vm, serde_json::Value) {
        let names = ["host-a", "host-b"];
        let (here, there) = (names[1 - host], names[host]);
        let receives = self.files.flags("ca", there, here);
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        let next = waiting(&vm, &self.hosts, host, receives.into_iter().chain(arguments).collect());
        moved_to(next, vm, &words(&self.files.flags("ca", here, there)))
    }
}

/// A machine on a host that waits for this one's guest.
fn waiting(vm: &Vm, hosts: &Hosts, host: usize, arguments: Vec<String>) -> Vm {
    let next = vm.other_host_with(COMMAND, |options| {
        options.listen = Some(format!("{}:7000", ADDRESSES[host]));
        options.under = hosts.under(host);
        options.arguments = arguments;
    });
    next.unwrap()
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// What was said of a migration that did not come about.
fn refused(vm: &Vm, next: &Vm, flags: &[String]) -> String {
    let answer = vm.migrate_to(next, &[&["--json"], &words(flags)[..]].concat()).unwrap();
    assert!(!answer.status.success(), "{flags:?}: it has moved");
    String::from_utf8(answer.stderr).unwrap()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn guest_moves_over_tls_between_two_hosts_and_to_or_from_nobody_else() {
    let Some(Network { hosts, files }) = Network::make() else { return };
    let start = |options: &mut tests::vm::Options| {
        options.memory = "128M".into();
        options.arguments = vec![];
        options.under = hosts.under(0);
    };
    let Some(mut vm) = machine("network", start) else { return };
    let a_to_b = files.flags("ca", "host-a", "host-b");
    let next = waiting(&vm, &hosts, 1, files.flags("ca", "host-b", "host-a"));
    let plain = ["--secret-file".to_owned(), text(&files.secret())];
    for (what, flags, expected) in [
        ("in the clear, unasked", plain.to_vec(), "--insecure"),
        ("in the clear", [&plain[..], &["--insecure".to_owned()]].concat(), "hello"),
        ("another authority", files.flags("other-ca", "host-a", "host-b"), "certificate"),
        ("another peer", files.flags("ca", "host-a", "host-c"), "certificate"),
        // What the other host finds wrong, it closes for, without a word to a stranger.
        ("another host", files.flags("ca", "host-c", "host-b"), ""),
        ("one that another authority knows", files.flags("ca", "foreign", "host-b"), ""),
        ("one that has expired", files.flags("ca", "late", "host-b"), ""),
        ("a key that is not its own", mismatched(&files), "the private key is not that of the certificate"),
    ] {
        let said = refused(&vm, &next, &flags);
        assert!(said.contains(expected), "{what}: {said}");
        assert!(running(&vm), "{what}: {said}");
    }
    // Both authorities are called the same: it is the signature that tells them apart.
    let until = Instant::now() + COMMAND;
    for word in ["NotValidForName", "BadSignature", "certificate expired"] {
        while !next.console.errors().contains(word) {
            let log = next.console.errors();
            assert!(Instant::now() < until, "{word} is not said at the destination: {log}");
            thread::sleep(Duration::from_millis(10));
        }
    }
    // The host that is meant.
    let report;
    (vm, report) = moved_to(next, vm, &words(&a_to_b));
    assert!(number(&report, "sent_len") > 1 << 20);
    assert_eq!(vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(), "still 42");
    // Back, to a host that has what it needs from its configuration file; a destination in the clear is no such host.
    let b_to_a = files.flags("ca", "host-b", "host-a");
    let clear = [&plain[..], &["--insecure".to_owned()]].concat();
    let mut stranger = waiting(&vm, &hosts, 0, clear);
    let said = refused(&vm, &stranger, &b_to_a);
    assert!(said.contains("TLS with the other host"), "{said}");
    assert!(running(&vm));
    stranger.control_json("stop").unwrap();
    stranger.console.wait_exit(COMMAND).unwrap();
    let config = ["--config".to_owned(), text(&files.config("host-a", "host-b"))];
    let next = waiting(&vm, &hosts, 0, [&plain[..], &config].concat());
    (vm, _) = moved_to(next, vm, &words(&b_to_a));
    assert_eq!(vm.console.output("echo still $((6 * 7))", COMMAND).unwrap().trim(), "still 42");
    vm.finish(COMMAND).unwrap();
}

/// The certificate of one host with the key of another.
fn mismatched(files: &Files) -> Vec<String> {
    let mut flags = files.flags("ca", "host-a", "host-b");
    let key = flags.iter().position(|flag| flag == "--tls-key").unwrap() + 1;
    flags[key] = text(&files.path("host-b-key.pem"));
    flags
}
