//! Hashes and checks passwords (argon2id). Slow on purpose: never called on a thread that serves others.

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

use super::settings::PasswordCost;

/// Characters a new password must have.
pub(crate) const SHORTEST: usize = 8;
/// Bytes a password may have; a longer one is refused before it is hashed.
pub(crate) const LONGEST: usize = 1024;

/// The password cannot be hashed: the cost makes no sense to argon2.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password cannot be hashed: {0}")]
pub(crate) struct HashError(String);

fn hasher(cost: PasswordCost) -> Result<Argon2<'static>, HashError> {
    let params =
        Params::new(cost.memory_kib, cost.passes, 1, None).map_err(|problem| HashError(problem.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The password as a PHC string.
pub(crate) fn hash(password: &str, salt: [u8; 16], cost: PasswordCost) -> Result<String, HashError> {
    let salt = SaltString::encode_b64(&salt).map_err(|problem| HashError(problem.to_string()))?;
    let hash =
        hasher(cost)?.hash_password(password.as_bytes(), &salt).map_err(|problem| HashError(problem.to_string()))?;
    Ok(hash.to_string())
}

/// Whether the password is the one of this PHC string. With none it does the same work and says no, so that the time
/// taken tells nothing.
pub(crate) fn verify(password: &str, phc: Option<&str>, cost: PasswordCost) -> bool {
    if let Some(known) = phc.and_then(|text| PasswordHash::new(text).ok()) {
        Argon2::default().verify_password(password.as_bytes(), &known).is_ok()
    } else {
        let _ = hash(password, [0; 16], cost);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1 };

    #[test]
    fn only_the_password_fits_its_hash() {
        let phc = hash("correct horse", [7; 16], CHEAP).unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{phc}");
        assert!(verify("correct horse", Some(&phc), CHEAP));
        assert!(!verify("correct hors", Some(&phc), CHEAP));
        assert!(!verify("correct horse", None, CHEAP));
        assert!(!verify("correct horse", Some("rubbish"), CHEAP));
        assert_ne!(hash("correct horse", [8; 16], CHEAP).unwrap(), phc, "the salt counts");
    }
}
