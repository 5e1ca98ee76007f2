// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may be at the other end: TLS 1.3, each host with a certificate of one authority, each other's name known
//! beforehand.
//!
//! Both ends are pinned to the authority and to the peer's name; the authorities that the system trusts have no say.
//! What is read here are the user's own files, handed over in memory.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid, version::TLS13,
};
use thiserror::Error;

/// What a host is known by, and whom it believes: PEM texts.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The authority that has signed both hosts' certificates, or several: each is believed.
    pub authority: &'a [u8],
    /// This host's certificate, and those between it and the authority.
    pub chain: &'a [u8],
    /// Its private key.
    pub key: &'a [u8],
}

/// Why no connection can be made with these files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is no PEM of what it should be.
    #[error("the {what} is not usable: {why}")]
    Pem {
        /// Which file.
        what: &'static str,
        /// What the parser found.
        why: pem::Error,
    },
    /// The key is another certificate's.
    #[error("the private key is not that of the certificate")]
    Key,
    /// Certificate, key and authority are of no use to this release.
    #[error("certificate, key and authority: {0}")]
    Config(String),
    /// The name of the other host is none that a certificate could have.
    #[error("{0:?} is no name of a host")]
    Name(String),
}

impl Identity<'_> {
    fn read(
        &self,
    ) -> Result<(RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let bad = |what| move |why| TlsError::Pem { what, why };
        let certificates = |bytes, what| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            let read = read.map_err(bad(what))?;
            if read.is_empty() { Err(bad(what)(pem::Error::NoItemsFound)) } else { Ok(read) }
        };
        let mut roots = RootCertStore::empty();
        // An authority whose certificate is renewed has two for a while.
        for authority in certificates(self.authority, "authority's certificate")? {
            roots.add(authority).map_err(unfit)?;
        }
        let chain = certificates(self.chain, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key).map_err(bad("private key"))?;
        Ok((roots, chain, key))
    }
}

fn unfit(error: impl Into<rustls::Error>) -> TlsError {
    match error.into() {
        rustls::Error::InconsistentKeys(_) => TlsError::Key,
        error => TlsError::Config(error.to_string()),
    }
}

/// For the end that connects, to a host of this name.
///
/// # Errors
/// If the files are not usable together.
pub fn connecting(
    identity: &Identity<'_>,
    peer: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsError> {
    let name = ServerName::try_from(peer.to_owned()).map_err(|_| TlsError::Name(peer.to_owned()))?;
    let (roots, chain, key) = identity.read()?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map(|builder| builder.with_root_certificates(roots))
        .and_then(|builder| builder.with_client_auth_cert(chain, key))
        .map_err(unfit)?;
    Ok((Arc::new(config), name))
}

/// For the end that is connected to, by a host of this name.
///
/// # Errors
/// If the files are not usable together.
pub fn accepting(identity: &Identity<'_>, peer: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let name = ServerName::try_from(peer.to_owned()).map_err(|_| TlsError::Name(peer.to_owned()))?;
    let (roots, chain, key) = identity.read()?;
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let inner = verifier.map_err(|error| TlsError::Config(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map(|builder| builder.with_client_cert_verifier(Arc::new(Named { inner, name })))
        .and_then(|builder| builder.with_single_cert(chain, key))
        .map_err(unfit)?;
    Ok(Arc::new(config))
}

/// Takes the certificate of one host only: the library checks who has signed a client's certificate, not whose it is.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let bad = |error| rustls::Error::InvalidCertificate(error);
        let certificate = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| bad(rustls::CertificateError::BadEncoding))?;
        certificate
            .verify_is_valid_for_subject_name(&self.name)
            .map_err(|_| bad(rustls::CertificateError::NotValidForName))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
