//! A node's key, the certificate made of it, and the proof of the other side's.
//!
//! The certificate is nothing but an envelope that TLS wants around an Ed25519 key: it signs itself, names nobody, and
//! its dates are ignored. A peer is known by its key alone (DECISIONS 8).

use std::fmt;
use std::sync::Arc;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use super::MeshError;
use crate::model::id::PeerId;

/// The protocol in the TLS handshake (DESIGN 6).
pub(super) const ALPN: &[u8] = b"slskdn-mesh/1";

/// Bytes of a secret key.
pub const SECRET_LEN: usize = 32;

/// PKCS #8 before the 32 bytes of an Ed25519 secret (RFC 8410, section 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// A `SubjectPublicKeyInfo` before the 32 bytes of an Ed25519 key (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The algorithm alone.
const ED25519: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// Our key. The secret is never shown.
pub struct Identity {
    secret: [u8; SECRET_LEN],
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id())
    }
}

impl Identity {
    /// A new secret.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn make() -> Result<[u8; SECRET_LEN], MeshError> {
        let mut secret = [0; SECRET_LEN];
        SystemRandom::new().fill(&mut secret).map_err(|_| MeshError::Random)?;
        Ok(secret)
    }

    /// The key of this secret.
    ///
    /// # Errors
    /// It is not of [`SECRET_LEN`] bytes.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, MeshError> {
        let secret = bytes.try_into().map_err(|_| MeshError::Secret(bytes.len()))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(bytes).map_err(|_| MeshError::Secret(bytes.len()))?;
        Ok(Self { secret, pair })
    }

    /// What others know us by.
    pub fn id(&self) -> PeerId {
        id_of_key(self.pair.public_key().as_ref())
    }

    fn certificate(&self) -> CertificateDer<'static> {
        let name =
            der(0x30, &der(0x31, &der(0x30, &[&[0x06, 0x03, 0x55, 0x04, 0x03][..], &der(0x0c, b"slskdn")].concat())));
        let dates = [der(0x17, b"700101000000Z"), der(0x18, b"99991231235959Z")].concat();
        let body = [
            // Version 3, serial number 1.
            &[0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x01][..],
            &ED25519,
            &name,
            &der(0x30, &dates),
            &name,
            &SPKI,
            self.pair.public_key().as_ref(),
        ];
        let body = der(0x30, &body.concat());
        let signature = [&[0][..], self.pair.sign(&body).as_ref()].concat();
        CertificateDer::from(der(0x30, &[&body[..], &ED25519, &der(0x03, &signature)].concat()))
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from([&PKCS8[..], &self.secret].concat()))
    }

    /// TLS for calling exactly this peer, or whoever proves a key.
    ///
    /// # Errors
    /// TLS cannot be set up with this key.
    pub fn client(&self, wanted: Option<PeerId>) -> Result<ClientConfig, Error> {
        let provider = provider();
        let proof = Arc::new(Proof { wanted, algorithms: provider.signature_verification_algorithms });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(proof)
            .with_client_auth_cert(vec![self.certificate()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// TLS for being called by whoever proves a key.
    ///
    /// # Errors
    /// TLS cannot be set up with this key.
    pub fn server(&self) -> Result<ServerConfig, Error> {
        let provider = provider();
        let proof = Arc::new(Proof { wanted: None, algorithms: provider.signature_verification_algorithms });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(proof)
            .with_single_cert(vec![self.certificate()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its key anew.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// One element of DER; nothing here reaches 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut element = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    element.extend_from_slice(content);
    element
}

fn id_of_key(key: &[u8]) -> PeerId {
    PeerId(*blake3::hash(key).as_bytes())
}

/// Whose certificate this is, if it holds an Ed25519 key.
pub(super) fn id_of(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let info = parsed.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&SPKI)?;
    (key.len() == 32).then(|| id_of_key(key))
}

/// Takes a certificate for the key in it, and for nothing else.
#[derive(Debug)]
struct Proof {
    /// `None`: whoever it is.
    wanted: Option<PeerId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Proof {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = id_of(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.wanted {
            Some(wanted) if wanted != found => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

const OLD_TLS: &str = "TLS 1.3 is wanted";

impl ServerCertVerifier for Proof {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(OLD_TLS.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Proof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(OLD_TLS.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_shows_its_key() {
        let identity = Identity::from_secret(&[7; 32]).unwrap();
        // The public key of this secret hashes to the same id in every program.
        assert_eq!(id_of(&identity.certificate()), Some(identity.id()));
        assert_ne!(identity.id(), Identity::from_secret(&[8; 32]).unwrap().id());
        assert_eq!(identity.id(), Identity::from_secret(&[7; 32]).unwrap().id());
        assert!(identity.client(Some(identity.id())).is_ok() && identity.server().is_ok());
        assert!(Identity::from_secret(&[7; 31]).is_err());
        assert!(!format!("{identity:?}").contains("7, 7"));
        assert_ne!(Identity::make().unwrap(), Identity::make().unwrap());
    }

    #[test]
    fn cut_and_bent_certificates_are_nobodys() {
        let whole = Identity::from_secret(&[7; 32]).unwrap().certificate();
        for end in 0..whole.len() {
            assert_eq!(id_of(&CertificateDer::from(whole[..end].to_vec())), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.to_vec();
            bent[at] ^= 0x55;
            let _ = id_of(&CertificateDer::from(bent));
        }
    }
}
