//! Signatures in the form of OpenBSD's signify: a comment line, then base64 of `Ed`, eight bytes that name the key, and
//! the key or signature of Ed25519 itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};

const KEY_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The public key's file.
    #[error("the key on this box is no public key of signify")]
    NoKey,
    /// The signature's form.
    #[error("the signature has no form that is known")]
    NoSignature,
    /// Signed by somebody else.
    #[error("it is signed with another key than the one on this box")]
    OtherKey,
    /// Not what was signed.
    #[error("the signature is wrong: this is not what was signed")]
    Wrong,
}

/// The key that updates are signed with.
#[derive(Clone, Copy, Debug)]
pub struct PublicKey {
    number: [u8; 8],
    key: [u8; KEY_LEN],
}

/// The second line's bytes: number, then `N` more.
fn decode<const N: usize>(file: &[u8]) -> Option<([u8; 8], [u8; N])> {
    let mut lines = std::str::from_utf8(file).ok()?.lines();
    lines.next()?.strip_prefix("untrusted comment:")?;
    let bytes = STANDARD.decode(lines.next()?).ok()?;
    let rest = bytes.strip_prefix(b"Ed")?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    Some((*number, rest.try_into().ok()?))
}

impl PublicKey {
    /// Of the file's text.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(file: &[u8]) -> Result<Self, SignatureError> {
        let (number, key) = decode(file).ok_or(SignatureError::NoKey)?;
        Ok(Self { number, key })
    }

    /// Whether `signature` (a file's text) is this key's under `message`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let (number, signature) = decode::<SIGNATURE_LEN>(signature).ok_or(SignatureError::NoSignature)?;
        if number != self.number {
            return Err(SignatureError::OtherKey);
        }
        UnparsedPublicKey::new(&ED25519, self.key).verify(message, &signature).map_err(|_| SignatureError::Wrong)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    /// A key pair of a test.
    pub(in crate::app::appliance) struct Signer(Ed25519KeyPair, [u8; 8]);

    impl Signer {
        pub(in crate::app::appliance) fn new(seed: u8) -> Self {
            Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(), [seed; 8])
        }

        fn file(&self, what: &str, bytes: &[u8]) -> Vec<u8> {
            let all = [b"Ed", &self.1[..], bytes].concat();
            format!("untrusted comment: {what}\n{}\n", STANDARD.encode(all)).into_bytes()
        }

        pub(in crate::app::appliance) fn public(&self) -> Vec<u8> {
            self.file("signify public key", self.0.public_key().as_ref())
        }

        pub(in crate::app::appliance) fn sign(&self, message: &[u8]) -> Vec<u8> {
            self.file("verify with key.pub", self.0.sign(message).as_ref())
        }
    }

    #[test]
    fn only_the_right_key_and_message_count() {
        let (ours, theirs) = (Signer::new(1), Signer::new(2));
        let key = PublicKey::parse(&ours.public()).unwrap();
        assert_eq!(key.check(b"message", &ours.sign(b"message")), Ok(()));
        assert_eq!(key.check(b"massage", &ours.sign(b"message")), Err(SignatureError::Wrong));
        assert_eq!(key.check(b"message", &theirs.sign(b"message")), Err(SignatureError::OtherKey));
        let imposter = Signer(Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap(), [1; 8]);
        assert_eq!(key.check(b"message", &imposter.sign(b"message")), Err(SignatureError::Wrong));
        let signature = ours.sign(b"message");
        for at in 0..signature.len() {
            assert!(key.check(b"message", &signature[..at]).is_err() || at == signature.len() - 1, "{at}");
        }
        assert!(PublicKey::parse(&signature).is_err() && PublicKey::parse(b"").is_err());
    }
}
