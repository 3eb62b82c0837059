//! The access token: `POST {base}/oauth/token` with client credentials.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};

use super::api::{Api, Call, failure};
use crate::codes::Code;
use crate::http::{ErrorBody, Failure, Grant, Reply, SecretError, Token};
use crate::pipeline::{Fault, Interrupt};
use crate::seams::Deadline;

/// What Mimecast names a wrong client id or secret.
const INVALID_CLIENT: &str = "InvalidClientIdentifier";

/// How long a token lives that does not say so: the `expires_in` of every answer that was
/// published.
const LIVES: Duration = Duration::from_secs(1_799);

impl Api {
    /// The token in hand, or a new one.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Token, Interrupt> {
        self.tokens.get(self.fetch_token(deadline)).await
    }

    /// The client secret as it is now.
    pub(super) async fn secret(&self) -> Result<SecretString, Fault> {
        self.client_secret.read().await.map_err(unreadable)
    }

    async fn fetch_token(&self, deadline: Deadline) -> Result<Grant, Interrupt> {
        let secret = self.secret().await?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client_id.as_str()),
            ("client_secret", secret.expose_secret()),
        ];
        let call = Call { what: "the token endpoint", lists: None };
        let attempt = || async {
            let request = self.clients.api.post(self.at("oauth/token")).form(&form);
            let reply = self.attempt(&call, deadline, request).await?;
            if reply.status.is_success() {
                let status = reply.status.as_u16();
                let not_one = |said| Failure::passing(format!("it answered {status}, but {said}"));
                return Grant::read(&reply, self.clock.now(), LIVES).map_err(not_one);
            }
            if reply.status == StatusCode::UNAUTHORIZED && !is_invalid_client(&reply) {
                return Err(failure(&call, &reply));
            }
            Err(Interrupt::from(refused(&reply)).into())
        };
        self.call(&call, deadline, attempt).await
    }
}

fn unreadable(SecretError { settings, problem, fix }: SecretError) -> Fault {
    let fault = if settings { Fault::settings } else { Fault::passing };
    fault(Code::SecretUnreadable, problem, fix)
}

fn refused(reply: &Reply) -> Fault {
    let (status, said) = (reply.status.as_u16(), ErrorBody::read(&reply.body));
    Fault::settings(
        Code::MimecastCredentials,
        format!("Mimecast refuses the client credentials ({status}): {said}"),
        "check MIMECAST_CLIENT_ID and MIMECAST_CLIENT_SECRET against the API 2.0 application in \
         Mimecast's console, and that MIMECAST_BASE_URL is its region",
    )
}

fn is_invalid_client(reply: &Reply) -> bool {
    ErrorBody::read(&reply.body).code == INVALID_CLIENT
}
