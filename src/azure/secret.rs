//! A secret of the settings: from the environment, from a file, or from Azure Key Vault.
//!
//! `GET {vault}/secrets/{name}?api-version=7.4`. One call by our own client rather than Microsoft's
//! library, for the reasons in [`super::credential`].

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::credential::{CredentialError, Credentials, Ways};
use crate::http::{
    ErrorBody, Failure, GaveUp, ReadSecret, Reply, SecretError, json, looks_like, retry_after,
    said, send,
};
use crate::seams::Deadline;
use crate::settings::{SecretSettings, VaultSecret};

const API_VERSION: &str = "7.4";

/// The most that is read of a reply, or of a file. A token has a few thousand bytes, and a vault's secret
/// 25 KB at most.
pub(super) const LIMIT: usize = 64 * 1024;

/// How long a vault is asked, besides the time for a token, or a file is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reads one secret, each time anew.
#[derive(Clone, Debug)]
pub struct SecretReader {
    settings: SecretSettings,
    ways: Ways,
}

impl SecretReader {
    /// For the secret that the settings name.
    pub fn new(settings: SecretSettings, ways: Ways) -> Self {
        Self { settings, ways }
    }
}

#[async_trait]
impl ReadSecret for SecretReader {
    async fn read(&self) -> Result<SecretString, SecretError> {
        let secret = match &self.settings {
            SecretSettings::Given(secret) => secret.clone(),
            SecretSettings::File(path) => in_file(path).await.map_err(|why| {
                let fix = "Put the secret into that file, let this account read it, or correct the setting that \
                           names it";
                settings_error(format!("{} {why}", path.display()), fix)
            })?,
            SecretSettings::Vault(secret) => InVault { secret, ways: &self.ways }.read().await?,
        };
        secret.read().await
    }
}

/// What a file has, as [`sole`] has it; else what is wrong with it.
pub(super) async fn in_file(path: &Path) -> Result<SecretString, String> {
    let mut text = String::new();
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        file.take(LIMIT as u64 + 1).read_to_string(&mut text).await
    };
    // A pipe that nobody writes to, or a share that is gone, never answers.
    match timeout(PATIENCE, read).await {
        Err(_) => Err(format!("cannot be read: no answer in {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Err(format!("cannot be read: {error}")),
        Ok(Ok(_)) if text.len() > LIMIT => Err(format!("has more than {LIMIT} bytes")),
        Ok(Ok(_)) => sole(&text).map_err(str::to_owned),
    }
}

/// The secret that a text is, without the blanks around it and the mark that Windows' editors begin a
/// file with; else what is wrong with it.
fn sole(text: &str) -> Result<SecretString, &'static str> {
    match text.trim_start_matches('\u{feff}').trim() {
        "" => Err("is empty"),
        secret if secret.chars().any(char::is_control) => {
            Err("has more in it than a secret: several lines, or control characters")
        }
        secret => Ok(secret.into()),
    }
}

fn settings_error(problem: String, fix: &str) -> SecretError {
    SecretError { settings: true, problem, fix: fix.to_owned() }
}

struct InVault<'a> {
    secret: &'a VaultSecret,
    ways: &'a Ways,
}

impl InVault<'_> {
    async fn read(&self) -> Result<SecretString, SecretError> {
        let identity = &self.secret.identity;
        let credentials = Credentials {
            settings: identity.credential.clone(),
            authority: identity.authority_host.clone(),
            ways: self.ways.clone(),
        };
        let token = credentials.fetch(self.secret.cloud.vault_scope()).await;
        let token = token.map_err(|error| self.no_token(error))?.token;
        let mut url = self.secret.url.clone();
        url.set_query(Some(&format!("api-version={API_VERSION}")));
        let attempt = || async {
            let request = self.ways.http.get(url.clone()).bearer_auth(token.expose_secret());
            let reply = send(request, LIMIT).await.map_err(Failure::passing)?;
            self.judge(&reply)
        };
        let gave_up = |gave_up: Option<GaveUp>| {
            self.unreachable(&gave_up.map(|gave_up| gave_up.said).unwrap_or_default())
        };
        let retries = self.ways.retry.start(&self.ways.seams.1, Deadline::after(PATIENCE));
        retries.run("the key vault", attempt, gave_up).await
    }

    fn judge(&self, reply: &Reply) -> Result<SecretString, Failure<SecretError>> {
        let status = reply.status.as_u16();
        if reply.status.is_success() {
            return self.value(reply);
        }
        let said = format!("HTTP {status}: {}", ErrorBody::read(&reply.body));
        let passes =
            matches!(reply.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        // A page is that of a proxy or a firewall.
        if passes || !reply.status.is_client_error() || looks_like(&reply.body) != "JSON" {
            let asked = retry_after(&reply.headers, self.ways.seams.0.now());
            return Err(Failure::Passing { said, asked });
        }
        Err(self.refused(&said, fix(reply)).into())
    }

    fn value(&self, reply: &Reply) -> Result<SecretString, Failure<SecretError>> {
        #[derive(Deserialize)]
        struct Answer {
            value: SecretString,
        }
        let answer: Answer =
            reply.json().map_err(|why| Failure::passing(format!("it answered 200, but {why}")))?;
        // `az keyvault secret set --file` keeps a line end.
        sole(answer.value.expose_secret())
            .map_err(|why| self.refused(&format!("it {why}"), "Set it again").into())
    }

    fn name(&self) -> String {
        format!("the secret at {}", self.secret.url)
    }

    fn refused(&self, why: &str, fix: &str) -> SecretError {
        settings_error(format!("{} cannot be read: {}", self.name(), said(why)), fix)
    }

    fn unreachable(&self, why: &str) -> SecretError {
        let host = self.secret.url.host_str().unwrap_or_default();
        SecretError {
            settings: false,
            problem: format!("{} was not read: {}", self.name(), said(why)),
            fix: format!(
                "The next run tries again; if it stays so, check the vault's name and the way to {host}"
            ),
        }
    }

    fn no_token(&self, error: CredentialError) -> SecretError {
        match error {
            CredentialError::Refused { credential, reason, fix } => {
                self.refused(&format!("{credential} was refused: {reason}"), &fix)
            }
            CredentialError::Unavailable { credential, reason, authority } => SecretError {
                settings: false,
                problem: format!(
                    "{} was not read: {credential} got no token: {reason}",
                    self.name()
                ),
                fix: format!("Check the way to {authority}, then try again"),
            },
        }
    }
}

/// What to do about a refusal of the vault's own.
fn fix(reply: &Reply) -> &'static str {
    let json = json::<Value>(&reply.body).unwrap_or_default();
    let inner = json.pointer("/error/innererror/code").and_then(Value::as_str).unwrap_or_default();
    match (reply.status, inner) {
        (StatusCode::FORBIDDEN, "SecretDisabled") => "Enable the secret in the vault",
        (StatusCode::FORBIDDEN, "ForbiddenByFirewall" | "ForbiddenByConnection") => {
            "The vault's network does not admit this program: give it a private endpoint in the vault's \
             network, or let the vault admit its address"
        }
        (StatusCode::FORBIDDEN, _) => {
            "Give this identity the role Key Vault Secrets User on the vault; a role that was just given \
             takes up to 30 minutes to work, and hours where a token is older"
        }
        (StatusCode::NOT_FOUND, _) => "Check the secret's name, and that it is in this vault",
        (StatusCode::UNAUTHORIZED, _) => {
            "The vault must be in the tenant of the identity that reads it, and AZURE_CLOUD its cloud"
        }
        _ => "Check the URL of the secret, and look at the vault",
    }
}
