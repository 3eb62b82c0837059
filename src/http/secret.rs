//! A secret that is read when it is needed.

use std::fmt::Debug;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};

use super::hold;

/// Why a secret could not be read. None is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}. {fix}")]
pub struct SecretError {
    /// Whether it stays so until a person acts.
    pub settings: bool,
    /// What is wrong: a sentence without its full stop.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Where a secret is.
#[async_trait]
pub trait ReadSecret: Debug + Send + Sync {
    /// The secret as it is now. It is struck out of texts from then on, as by [`hold`].
    ///
    /// # Errors
    /// Why there is none.
    async fn read(&self) -> Result<SecretString, SecretError>;
}

/// One that is in hand.
#[async_trait]
impl ReadSecret for SecretString {
    async fn read(&self) -> Result<Self, SecretError> {
        hold(self.expose_secret());
        Ok(self.clone())
    }
}
