//! Secrets shared with peers.

use std::fmt;

/// The longest key the kernel takes (`linux/tcp.h`).
pub(super) const LONGEST: usize = 80;

/// A password that does not show up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

impl Password {
    /// Takes a password of 1 to 80 bytes.
    ///
    /// # Errors
    /// [`PasswordError`] for any other length.
    pub fn new(password: &[u8]) -> Result<Password, PasswordError> {
        if password.is_empty() || password.len() > LONGEST {
            return Err(PasswordError { len: password.len() });
        }
        Ok(Password(password.into()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A password that TCP MD5 cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("BGP password has {len} bytes: expected 1 to {LONGEST}")]
pub struct PasswordError {
    len: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_shown_and_has_a_length_the_kernel_takes() {
        assert!(!format!("{:?}", Password::new(b"hunter2").unwrap()).contains("hunter2"));
        assert!(Password::new(&[b'a'; LONGEST]).is_ok());
        assert!(Password::new(&[b'a'; LONGEST + 1]).unwrap_err().to_string().contains("81 bytes"));
        assert!(Password::new(b"").is_err());
    }
}
