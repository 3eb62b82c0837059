//! Tokens of an identity.

use async_trait::async_trait;

use super::{SecretError, Token};

/// An identity that a service knows.
#[async_trait]
pub trait SignIn: Send + Sync {
    /// A token for the service.
    ///
    /// # Errors
    /// Why there is none.
    async fn sign_in(&self) -> Result<SignedIn, SecretError>;

    /// Forgets a token that the service refused.
    async fn forget(&self, refused: &Token);
}

/// A token, and what it says of itself.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The token.
    pub token: Token,
    /// The application's or the managed identity's client id.
    pub client: String,
    /// The tenant's id.
    pub tenant: String,
    /// What the token is for, e.g. `https://graph.microsoft.com`.
    pub audience: String,
    /// The rights that it has by app roles, e.g. `User.Read.All`.
    pub roles: Vec<String>,
}
