//! Who this program is to Azure, and the tokens that prove it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::error::ErrorKind;
use azure_core::http::ClientOptions;
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::sdk;
use crate::seams::Clock;
use crate::settings::CredentialSettings;

/// How long before its end a token is no longer used.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

impl CredentialSettings {
    fn name(&self) -> &'static str {
        match self {
            Self::ClientSecret { .. } => "the client secret",
            Self::WorkloadIdentity { .. } => "the workload identity",
            Self::ManagedIdentity { .. } => "the managed identity",
            Self::AzureCli => "the Azure CLI's login",
        }
    }

    fn fix(&self) -> &'static str {
        match self {
            Self::ClientSecret { .. } => {
                "Check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; a secret that has \
                 expired is replaced under \"Certificates & secrets\" of the app registration"
            }
            Self::WorkloadIdentity { .. } => {
                "Check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, and that a \
                 federated credential of the app registration has the token's issuer and subject"
            }
            Self::ManagedIdentity { .. } => {
                "Turn on the system-assigned identity of the app, or set AZURE_CLIENT_ID to the \
                 client id of a user-assigned identity that the app has"
            }
            Self::AzureCli => "Install the Azure CLI and run `az login`",
        }
    }
}

/// Why there is no token. Neither tokens nor secrets are in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The credential is wrong: a setting.
    #[error("{credential} was refused: {reason}. {fix}")]
    Refused {
        /// Which one.
        credential: &'static str,
        /// In the words of Entra, of the identity endpoint or of `az`.
        reason: String,
        /// What to do.
        fix: &'static str,
    },
    /// Nobody answered, or only that it cannot be done now.
    #[error("{credential} got no token: {reason}. Check the way to {authority}, then try again")]
    Unavailable {
        /// Which one.
        credential: &'static str,
        /// What the network or the other side said.
        reason: String,
        /// Where tokens come from.
        authority: String,
    },
}

/// What a credential is built from, as often as it is needed.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Which identity to be.
    pub settings: CredentialSettings,
    /// Where Entra is, `https` only: `https://login.microsoftonline.com` or a sovereign cloud's.
    pub authority: Url,
    /// The way to Entra.
    pub http: reqwest::Client,
    /// The way to the identity endpoint, which is never behind a proxy.
    pub http_without_proxy: reqwest::Client,
}

impl Credentials {
    /// A credential that has no token yet. It keeps its tokens until 5 minutes before their end,
    /// except the Azure CLI's, which keeps none.
    ///
    /// # Errors
    /// [`CredentialError::Refused`] if a setting cannot be right, or the token file not be read.
    pub fn build(&self) -> Result<Arc<dyn TokenCredential>, CredentialError> {
        self.try_build().map_err(|error| CredentialError::Refused {
            credential: self.settings.name(),
            reason: sdk::explain(&error),
            fix: self.settings.fix(),
        })
    }

    fn try_build(&self) -> azure_core::Result<Arc<dyn TokenCredential>> {
        Ok(match &self.settings {
            CredentialSettings::ClientSecret { tenant_id, client_id, secret } => {
                let secret = Secret::new(secret.expose_secret().to_owned());
                let client_options = self.entra();
                let options = Some(ClientSecretCredentialOptions { client_options });
                ClientSecretCredential::new(tenant_id, client_id.clone(), secret, options)?
            }
            CredentialSettings::WorkloadIdentity { tenant_id, client_id, token_file } => {
                let client_options = self.entra();
                WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: Some(client_id.clone()),
                    tenant_id: Some(tenant_id.clone()),
                    token_file_path: Some(token_file.clone()),
                }))?
            }
            CredentialSettings::ManagedIdentity { client_id } => {
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    client_options: sdk::client_options(&self.http_without_proxy),
                }))?
            }
            CredentialSettings::AzureCli => AzureCliCredential::new(None)?,
        })
    }

    fn entra(&self) -> ClientOptions {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = self.authority.to_string();
        let cloud = Some(Arc::new(CloudConfiguration::Custom(cloud)));
        ClientOptions { cloud, ..sdk::client_options(&self.http) }
    }

    fn fault(&self, error: &azure_core::Error) -> CredentialError {
        let credential = self.settings.name();
        let mut reason = sdk::explain(error);
        // The SDK hides what the identity endpoint said.
        if let CredentialSettings::ManagedIdentity { .. } = self.settings
            && let Some((status, body)) = sdk::answer(error)
        {
            reason = format!("{reason} (HTTP {status}: {body})");
        }
        if is_refusal(error) || matches!(self.settings, CredentialSettings::AzureCli) {
            return CredentialError::Refused { credential, reason, fix: self.settings.fix() };
        }
        let authority = match self.settings {
            CredentialSettings::ManagedIdentity { .. } => "IDENTITY_ENDPOINT".to_owned(),
            _ => self.authority.to_string(),
        };
        CredentialError::Unavailable { credential, reason, authority }
    }
}

/// Whether a credential was refused, as opposed to not answered, or not by Entra.
pub(super) fn is_refusal(error: &azure_core::Error) -> bool {
    if *error.kind() != ErrorKind::Credential {
        return false;
    }
    match sdk::answer(error) {
        Some((status, _)) => sdk::is_refusal(status),
        // The SDK fails to read a refusal with an escape in its text, and repeats that text.
        None if error.to_string().contains("AADSTS") => true,
        None => {
            !sdk::causes(error).any(|e| e.is::<reqwest::Error>() || e.is::<serde_json::Error>())
        }
    }
}

/// The tokens for one scope, each used until 5 minutes before its end.
pub struct AccessTokens {
    credentials: Credentials,
    scope: String,
    clock: Clock,
    refused: AtomicBool,
    held: Mutex<Option<Held>>,
}

struct Held {
    credential: Arc<dyn TokenCredential>,
    /// A token, and until when it is used.
    token: Option<(SecretString, Instant)>,
}

impl AccessTokens {
    /// Tokens for `scope`, e.g. `https://monitor.azure.com/.default`.
    pub fn new(credentials: Credentials, scope: impl Into<String>, clock: Clock) -> Self {
        let (refused, held) = (AtomicBool::new(false), Mutex::new(None));
        Self { credentials, scope: scope.into(), clock, refused, held }
    }

    /// A token to send as `Authorization: Bearer …`. Callers at the same time share one request.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub async fn bearer(&self) -> Result<SecretString, CredentialError> {
        let mut held = self.held.lock().await;
        if self.refused.swap(false, Ordering::Relaxed) {
            *held = None;
        }
        let held = match &mut *held {
            Some(held) => held,
            none => none.insert(Held { credential: self.credentials.build()?, token: None }),
        };
        if let Some((token, until)) = &held.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let answer = held.credential.get_token(&[&self.scope], None).await;
        let answer = answer.map_err(|error| self.credentials.fault(&error))?;
        let left = answer.expires_on.unix_timestamp() - self.clock.now().timestamp();
        let left = Duration::from_secs(left.try_into().unwrap_or(0)).saturating_sub(RENEW_BEFORE);
        let token = SecretString::from(answer.token.secret());
        held.token = Some((token.clone(), Instant::now() + left));
        Ok(token)
    }

    /// Makes the next [`AccessTokens::bearer`] ask anew: the service refused the last one. (A
    /// managed identity may get the same token again: the platform keeps it for hours.)
    pub fn renew(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokens").field("scope", &self.scope).finish_non_exhaustive()
    }
}
