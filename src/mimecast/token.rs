//! The access token: `POST {base}/oauth/token` with client credentials.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::api::{Api, Call};
use crate::http::{Reply, Token};
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
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client_id.as_str()),
            ("client_secret", self.client_secret.expose_secret()),
        ];
        let request = || self.clients.api.post(self.at("oauth/token")).form(&form);
        let call = Call { what: "the token endpoint", lists: None };
        let reply = self.send(
            &call,
            deadline,
            request,
            |reply| matches!(reply.status.as_u16(), 401 if !is_invalid_client(reply)),
        );
        let reply = reply.await?;
        if !reply.status.is_success() {
            return Err(refused(&reply).into());
        }
        let grant: Grant = serde_json::from_slice(&reply.body).map_err(|_| {
            Fault::passing(
                "token-unreadable",
                "Mimecast's token endpoint answered something that is not a token",
                "check MIMECAST_BASE_URL and what stands between here and it (a proxy's page?)",
            )
        })?;
        Ok((grant.access_token, Duration::from_secs(grant.expires_in)))
    }
}

fn is_invalid_client(reply: &Reply) -> bool {
    super::error_body::ErrorBody::read(&reply.body).code == INVALID_CLIENT
}

fn refused(reply: &Reply) -> Fault {
    let said = super::error_body::ErrorBody::read(&reply.body);
    Fault::settings(
        "mimecast-credentials",
        format!("Mimecast refuses the client credentials ({}): {said}", reply.status.as_u16()),
        "check MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET against the API 2.0 application in \
         Mimecast's console, and that MIMECAST_BASE_URL is its region",
    )
}
