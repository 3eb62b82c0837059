//! The HTTP clients.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls_platform_verifier::BuilderVerifierExt;

use url::Url;

use super::proxies::Proxies;
use super::public_hosts::PublicHosts;
use super::said;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may stay silent in the middle of a reply.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an API call may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients of this program. None of them follows redirects or decompresses.
#[derive(Clone, Debug)]
pub struct Clients {
    /// For APIs, and the transport of Azure's own libraries.
    pub api: Client,
    /// For files at addresses that an API handed out: connects to public addresses only. It has no
    /// limit on the whole time, since a file may be large.
    pub files: Client,
    /// For the managed identity's endpoint on this machine: bypasses proxies.
    pub local: Client,
    proxies: Arc<Proxies>,
    loopback: bool,
}

/// Why there are no clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// Without root certificates, mostly.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl Clients {
    /// Builds them. With `loopback`, files may come from this machine too: for tests.
    pub fn new(loopback: bool) -> Result<Self, ClientsError> {
        let tls = tls()?;
        let proxies = Arc::new(Proxies::of_environment());
        let builder = || {
            Client::builder()
                .user_agent(concat!("mimecast-sentinel/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .tls_backend_preconfigured(tls.clone())
        };
        let files = |builder: ClientBuilder| match loopback {
            true => builder,
            false => {
                let hosts = PublicHosts { but: Arc::clone(&proxies) };
                builder.https_only(true).dns_resolver(Arc::new(hosts))
            }
        };
        Ok(Self {
            api: proxies.route(builder().timeout(CALL_TIMEOUT))?.build()?,
            files: proxies.route(files(builder()))?.build()?,
            local: builder().timeout(CALL_TIMEOUT).no_proxy().build()?,
            proxies,
            loopback,
        })
    }

    /// Whether a file may be fetched from this address, which is `https` and public if it is a
    /// number. For a name, `files` checks the addresses when it connects. Behind a proxy it
    /// does not connect, so the name is looked up here. The proxy's own name is refused.
    pub async fn may_fetch(&self, url: &Url) -> bool {
        self.loopback || !self.proxies.refuse(url).await
    }
}

/// TLS 1.2 and 1.3, with the system's root certificates, for all clients: to load those is most of
/// what a run with nothing new costs, so they are loaded once.
fn tls() -> Result<ClientConfig, rustls::Error> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_platform_verifier()?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// An error of the HTTP library with its causes, and without the address: that may be signed.
pub fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "could not connect"
    } else {
        "the connection failed"
    };
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    last.map_or_else(|| kind.to_owned(), |last| format!("{kind}: {}", said(&last)))
}
