//! Whether a server answers at all: the way to it, and its clock.

use std::error::Error;
use std::io;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Client;
use reqwest::header::{DATE, HeaderMap};
use tokio::time::timeout;
use url::Url;

use super::{describe, said};

/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why no answer came.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreached {
    /// The name of the server, or of the proxy on the way, has no address.
    #[error("the name cannot be resolved: {0}")]
    NoName(String),
    /// What answers has a certificate that is not trusted here.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// Anything else, which may pass.
    #[error("{0}")]
    Other(String),
}

/// Asks the server of `url` for its root, without a token or anything else that identifies this
/// program. Any answer will do; what is returned is the server's clock, if the answer shows it.
///
/// # Errors
/// [`Unreached`], if there is no answer within 15 s.
pub async fn reach(client: &Client, url: &Url) -> Result<Option<DateTime<Utc>>, Unreached> {
    let mut root = url.clone();
    root.set_path("/");
    root.set_query(None);
    match timeout(PATIENCE, client.get(root).send()).await {
        Ok(Ok(answer)) => Ok(server_time(answer.headers())),
        Ok(Err(error)) => Err(why(&error)),
        Err(_) => Err(Unreached::Other(format!("no answer came within {} s", PATIENCE.as_secs()))),
    }
}

/// The time that an answer's `Date` shows.
pub fn server_time(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let text = headers.get(DATE)?.to_str().ok()?;
    DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc())
}

fn why(error: &reqwest::Error) -> Unreached {
    let (mut cause, mut no_name, mut last) = (error.source(), false, String::new());
    while let Some(error) = cause {
        last = error.to_string();
        // The connector's word for a failed look-up; its type is not public.
        no_name |= last == "dns error";
        // An error within an `io::Error` is not among its sources.
        let within = error.downcast_ref().and_then(io::Error::get_ref);
        if let Some(tls) = within.and_then(|within| within.downcast_ref::<rustls::Error>())
            && matches!(tls, rustls::Error::InvalidCertificate(_))
        {
            return Unreached::Certificate(said(&tls.to_string()));
        }
        cause = error.source();
    }
    if no_name { Unreached::NoName(said(&last)) } else { Unreached::Other(describe(error)) }
}
