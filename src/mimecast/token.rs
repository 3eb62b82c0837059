//! The access token: `POST {base}/oauth/token` with client credentials.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};

use super::api::{Api, Call};
use crate::http::{ErrorBody, Grant, Reply, Token, hold, looks_like};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// What Mimecast names a wrong client id or secret.
const INVALID_CLIENT: &str = "InvalidClientIdentifier";

/// How long a token lives that does not say so: the `expires_in` of every answer that was published.
const LIVES: Duration = Duration::from_secs(1_799);

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
        let again =
            |reply: &Reply| reply.status == StatusCode::UNAUTHORIZED && !is_invalid_client(reply);
        let mut retries = self.retry.start(&self.random, deadline);
        loop {
            let reply = self.send(&call, deadline, request, again).await?;
            if !reply.status.is_success() {
                return Err(self.refused(&reply).into());
            }
            let said = match Grant::read(&reply, self.clock.now(), LIVES) {
                Ok(grant) => return Ok((grant.token, grant.lives)),
                Err(said) => format!("it answered {}, but {said}", reply.status.as_u16()),
            };
            tracing::info!(call = call.what, failed = said, "Mimecast failed; trying again");
            // Also where there is no time for another: the run has met a failure.
            retries.back_off().await.map_err(|_| self.no_token(&said))?;
        }
    }

    fn refused(&self, reply: &Reply) -> Fault {
        let said = ErrorBody::read(&reply.body);
        let status = reply.status.as_u16();
        if looks_like(&reply.body) == "an HTML page" {
            return self.no_token(&format!("it answered {status} with {said}"));
        }
        Fault::settings(
            "mimecast-credentials",
            format!("Mimecast refuses the client credentials ({status}): {said}"),
            "check MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET against the API 2.0 application \
             in Mimecast's console, and that MIMECAST_BASE_URL is its region",
        )
    }

    /// What stands in the way answers, or Mimecast does in a way that is not documented.
    fn no_token(&self, said: &str) -> Fault {
        let host = self.base_url.host_str().unwrap_or_default();
        Fault::passing(
            "mimecast-unreachable",
            format!("the token endpoint at {host} gives no token: {said}"),
            "nothing is lost, the next run tries again; if it stays so, check what stands between \
             this machine and Mimecast (a proxy, a firewall), and Mimecast's status page",
        )
    }
}

fn is_invalid_client(reply: &Reply) -> bool {
    ErrorBody::read(&reply.body).code == INVALID_CLIENT
}
