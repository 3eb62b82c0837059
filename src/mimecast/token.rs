//! The access token: `POST {base}/oauth/token` with client credentials.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::api::{Api, Call};
use crate::http::{ErrorBody, Reply, Token, hold};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// What Mimecast names a wrong client id or secret.
const INVALID_CLIENT: &str = "InvalidClientIdentifier";

#[derive(Deserialize)]
struct Grant {
    access_token: SecretString,
    expires_in: u64,
}

impl Api {
    /// The token in hand, or a new one.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Token, Interrupt> {
        self.tokens.get(async || self.fetch_token(deadline).await).await
    }

    async fn fetch_token(&self, deadline: Deadline) -> Result<(SecretString, Duration), Interrupt> {
        hold(self.client_secret.expose_secret());
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client_id.as_str()),
            ("client_secret", self.client_secret.expose_secret()),
        ];
        let request = || self.clients.api.post(self.at("oauth/token")).form(&form);
        let call = Call { what: "the token endpoint", lists: None };
        let again = |reply: &Reply| match reply.status {
            StatusCode::UNAUTHORIZED => !is_invalid_client(reply),
            status => status.is_success() && read(reply).is_none(),
        };
        let reply = self.send(&call, deadline, request, again).await?;
        let Grant { access_token, expires_in } = read(&reply).ok_or_else(|| refused(&reply))?;
        Ok((access_token, Duration::from_secs(expires_in)))
    }
}

/// The token in a reply that has one.
fn read(reply: &Reply) -> Option<Grant> {
    serde_json::from_slice(&reply.body).ok().filter(|_| reply.status.is_success())
}

fn is_invalid_client(reply: &Reply) -> bool {
    ErrorBody::read(&reply.body).code == INVALID_CLIENT
}

fn refused(reply: &Reply) -> Fault {
    let said = ErrorBody::read(&reply.body);
    Fault::settings(
        "mimecast-credentials",
        format!("Mimecast refuses the client credentials ({}): {said}", reply.status.as_u16()),
        "check MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET against the API 2.0 application in \
         Mimecast's console, and that MIMECAST_BASE_URL is its region",
    )
}
