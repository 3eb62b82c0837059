//! The program's identity in Azure, and its tokens.
//!
//! Entra and the identity endpoint are asked by our own calls, since Microsoft's library does not
//! read all answers (`expires_on` only as text), repeats fewer calls, and has no limit on a reply's
//! size. Only `az` is called by that library.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential as _;
use azure_core::error::ErrorKind;
use azure_core::http::headers::AUTHORIZATION;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use azure_identity::AzureCliCredential;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::sdk;
use super::secret::{LIMIT, SecretReader, in_file};
use crate::http::{
    ErrorBody, Failure, GaveUp, Grant, ReadSecret as _, Reply, RetryPolicy, SecretError, SignIn,
    SignedIn, Token, TokenCache, hold, hold_token, looks_like, retry_after, said, send,
};
use crate::seams::{Clock, Deadline, Random};
use crate::settings::CredentialSettings;

/// How long getting a token is retried before the caller gets an error. The caller may hold a lease
/// of 60 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The assumed life of a token whose reply gives none: the shortest that Entra gives by default.
const LIVES: Duration = Duration::from_secs(3_600);

/// The type of an assertion (RFC 7523).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

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
            Self::AzureCli => {
                "Install the Azure CLI and run `az login`; where nobody signs in, set AZURE_TENANT_ID, \
                 AZURE_CLIENT_ID and AZURE_CLIENT_SECRET_FILE"
            }
        }
    }
}

/// Why there is no token. Neither tokens nor secrets are in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    /// The credential is wrong: a setting.
    #[error("{credential} was refused: {reason}. {fix}")]
    Refused {
        /// Which one.
        credential: &'static str,
        /// In the words of Entra, of the identity endpoint or of `az`.
        reason: String,
        /// What to do.
        fix: String,
    },
    /// There was no answer, or only one that may pass.
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

impl CredentialError {
    /// What happened, and what to do, each by itself.
    pub(super) fn told(&self) -> SecretError {
        match self {
            Self::Refused { credential, reason, fix } => SecretError {
                settings: true,
                problem: format!("{credential} was refused: {reason}"),
                fix: fix.clone(),
            },
            Self::Unavailable { credential, reason, authority } => SecretError {
                settings: false,
                problem: format!("{credential} got no token: {reason}"),
                fix: format!(
                    "nothing is lost, the next run tries again; check the way to {authority}"
                ),
            },
        }
    }
}

/// An identity. [`AccessTokens`] keep the tokens that it gets.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Which identity to be.
    pub settings: CredentialSettings,
    /// Where Entra is, `https` only: `https://login.microsoftonline.com` or a sovereign cloud's.
    pub authority: Url,
    /// How calls are made.
    pub ways: Ways,
}

/// How calls are made that get a token or a secret.
#[derive(Clone, Debug)]
pub struct Ways {
    /// The way to Entra and to key vaults.
    pub http: reqwest::Client,
    /// The way to the identity endpoint, which is never behind a proxy.
    pub http_without_proxy: reqwest::Client,
    /// How calls are repeated, for 15 s at most.
    pub retry: RetryPolicy,
    /// The clock, and the jitter of waits.
    pub seams: (Clock, Random),
}

impl Credentials {
    /// A new token for `scope`, e.g. `https://monitor.azure.com/.default`.
    pub(super) async fn fetch(&self, scope: &str) -> Result<Grant, CredentialError> {
        if let CredentialSettings::AzureCli = self.settings {
            return self.ask_azure_cli(scope).await;
        }
        let attempt = || async {
            let reply = send(self.request(scope).await?, LIMIT).await;
            self.judge(&reply.map_err(Failure::passing)?)
        };
        let gave_up = |gave_up: Option<GaveUp>| {
            self.unavailable(gave_up.map(|gave_up| gave_up.said).unwrap_or_default())
        };
        let retries = self.ways.retry.start(&self.ways.seams.1, Deadline::after(PATIENCE));
        retries.run(self.settings.name(), attempt, gave_up).await
    }

    async fn request(&self, scope: &str) -> Result<RequestBuilder, CredentialError> {
        let (tenant_id, client_id, proof) = match &self.settings {
            CredentialSettings::ClientSecret { tenant_id, client_id, secret } => {
                let secret = SecretReader::new(secret.clone(), self.ways.clone());
                let secret = secret.read().await.map_err(|error| self.no_secret(error))?;
                (tenant_id, client_id, vec![("client_secret", secret)])
            }
            CredentialSettings::WorkloadIdentity { tenant_id, client_id, token_file } => {
                let assertion = self.assertion(token_file).await?;
                hold_token(assertion.expose_secret());
                let kind = ("client_assertion_type", JWT_BEARER.into());
                (tenant_id, client_id, vec![kind, ("client_assertion", assertion)])
            }
            CredentialSettings::ManagedIdentity { endpoint, header, client_id } => {
                hold(header.expose_secret());
                let resource = scope.strip_suffix("/.default").unwrap_or(scope);
                let mut query = vec![("api-version", "2019-08-01"), ("resource", resource)];
                query.extend(client_id.as_deref().map(|id| ("client_id", id)));
                let request = self.ways.http_without_proxy.get(endpoint.clone()).query(&query);
                return Ok(request.header("X-IDENTITY-HEADER", header.expose_secret()));
            }
            CredentialSettings::AzureCli => return Err(self.refused("it is no call".to_owned())),
        };
        if self.authority.scheme() != "https" {
            return Err(self.refused(format!("{} is not HTTPS", self.authority)));
        }
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client_id.as_str()),
            ("scope", scope),
        ];
        form.extend(proof.iter().map(|(name, value)| (*name, value.expose_secret())));
        let mut url = self.authority.clone();
        url.set_path(&format!("{tenant_id}/oauth2/v2.0/token"));
        Ok(self.ways.http.post(url).form(&form))
    }

    /// What the platform wrote last: it is replaced.
    async fn assertion(&self, file: &std::path::Path) -> Result<SecretString, CredentialError> {
        in_file(file).await.map_err(|why| self.refused(format!("{} {why}", file.display())))
    }

    /// What an answer means.
    fn judge(&self, reply: &Reply) -> Result<Grant, Failure<CredentialError>> {
        let (status, now) = (reply.status.as_u16(), self.ways.seams.0.now());
        if reply.status.is_success() {
            let not_one = |said| Failure::passing(format!("it answered {status}, but {said}"));
            return Grant::read(reply, now, LIVES).map_err(not_one);
        }
        let said = format!("HTTP {status}: {}", ErrorBody::read(&reply.body));
        if self.refuses(reply) {
            return Err(self.refused(said).into());
        }
        Err(Failure::Passing { said, asked: retry_after(&reply.headers, now) })
    }

    /// Whether an answer is a refusal, and not one that passes or a page of a proxy or firewall.
    fn refuses(&self, reply: &Reply) -> bool {
        let passes = match reply.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
            // What the identity endpoint answers while the platform starts or replaces it.
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                matches!(self.settings, CredentialSettings::ManagedIdentity { .. })
            }
            _ => false,
        };
        // There is no proxy between this program and the identity endpoint.
        let its_own = matches!(self.settings, CredentialSettings::ManagedIdentity { .. })
            || looks_like(&reply.body) == "JSON";
        reply.status.is_client_error() && !passes && its_own
    }

    /// `az` keeps the person's login, and its tokens.
    async fn ask_azure_cli(&self, scope: &str) -> Result<Grant, CredentialError> {
        let answer = async { AzureCliCredential::new(None)?.get_token(&[scope], None).await };
        let token = answer.await.map_err(|error| self.refused(sdk::explain(&error)))?;
        let left = token.expires_on.unix_timestamp() - self.ways.seams.0.now().timestamp();
        let lives = Duration::from_secs(left.try_into().unwrap_or(0));
        Ok(Grant { token: token.token.secret().into(), lives })
    }

    fn refused(&self, reason: String) -> CredentialError {
        let (credential, fix) = (self.settings.name(), self.settings.fix().to_owned());
        CredentialError::Refused { credential, reason: said(&reason), fix }
    }

    fn no_secret(&self, error: SecretError) -> CredentialError {
        let credential = self.settings.name();
        let SecretError { settings, problem: reason, fix } = error;
        if settings {
            CredentialError::Refused { credential, reason, fix }
        } else {
            let authority = "the key vault".to_owned();
            CredentialError::Unavailable { credential, reason, authority }
        }
    }

    fn unavailable(&self, reason: String) -> CredentialError {
        let authority = match self.settings {
            CredentialSettings::ManagedIdentity { .. } => "IDENTITY_ENDPOINT".to_owned(),
            _ => self.authority.to_string(),
        };
        CredentialError::Unavailable { credential: self.settings.name(), reason, authority }
    }
}

/// Whether a credential was refused, as opposed to not answered.
pub(super) fn is_refusal(error: &azure_core::Error) -> bool {
    sdk::causes(error)
        .any(|cause| matches!(cause.downcast_ref(), Some(CredentialError::Refused { .. })))
}

/// The tokens for one scope, each used until 5 minutes before its end.
#[derive(Debug)]
pub struct AccessTokens {
    credentials: Credentials,
    scope: String,
    cache: TokenCache<CredentialError>,
}

impl AccessTokens {
    /// Tokens for `scope`, e.g. `https://monitor.azure.com/.default`.
    pub fn new(credentials: Credentials, scope: impl Into<String>) -> Self {
        Self { credentials, scope: scope.into(), cache: TokenCache::default() }
    }

    /// A token to send as `Authorization: Bearer …`. Callers at the same time share one request.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub async fn get(&self) -> Result<Token, CredentialError> {
        self.cache.get(self.credentials.fetch(&self.scope)).await
    }

    /// With which credential a token is got, and what the token says of itself.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub async fn identity(&self) -> Result<(&'static str, Claims), CredentialError> {
        let token = self.get().await?;
        Ok((self.credentials.settings.name(), Claims::read(&token.secret)))
    }

    /// Forgets a token that the service refused. (A managed identity may get the same token again:
    /// the platform keeps it for hours.)
    pub async fn discard(&self, refused: &Token) {
        self.cache.discard(refused).await;
    }
}

#[async_trait]
impl SignIn for AccessTokens {
    async fn sign_in(&self) -> Result<SignedIn, SecretError> {
        let token = self.get().await.map_err(|error| error.told())?;
        let Claims { audience, tenant, client, roles } = Claims::read(&token.secret);
        Ok(SignedIn { token, client, tenant, audience, roles })
    }

    async fn forget(&self, refused: &Token) {
        self.discard(refused).await;
    }
}

/// What a token says of itself. Each is empty if the token does not say it, or is no JWT.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// What the token is for, e.g. `https://monitor.azure.com`.
    #[serde(rename = "aud")]
    pub audience: String,
    /// The tenant's id.
    #[serde(rename = "tid")]
    pub tenant: String,
    /// The application's or the managed identity's client id.
    #[serde(rename = "appid")]
    pub client: String,
    /// The rights that it has by app roles, e.g. `User.Read.All`.
    pub roles: Vec<String>,
}

impl Claims {
    /// Reads the middle part of a JWT (RFC 7519). The signature is for the service to check.
    fn read(token: &SecretString) -> Self {
        let part = token.expose_secret().split('.').nth(1).unwrap_or_default();
        let json = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

/// For Azure's own libraries. Their cache makes its callers wait one after the other for a token
/// that does not come.
#[async_trait]
impl Policy for AccessTokens {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let failed = |error| azure_core::Error::new(ErrorKind::Credential, error);
        let token = self.get().await.map_err(failed)?;
        let bearer = format!("Bearer {}", token.secret.expose_secret());
        request.insert_header(AUTHORIZATION, bearer);
        let reply = next[0].send(context, request, &next[1..]).await?;
        if reply.status() == StatusCode::UNAUTHORIZED.as_u16() {
            self.discard(&token).await;
        }
        Ok(reply)
    }
}
