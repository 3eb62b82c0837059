//! The proxies that the environment names, and the check of a file's host behind one, where the
//! proxy resolves the names.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use reqwest::{ClientBuilder, NoProxy, Proxy};
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use url::Url;

use super::public_hosts::is_public;
use super::secrets::hold;

/// How long looking up a name may take. Behind a proxy there may be no name server that knows it.
const LOOK_UP: Duration = Duration::from_secs(5);

/// How long the answer counts. Files are many, and their hosts are few.
const COUNTS: Duration = Duration::from_secs(300);

/// The most hosts that are remembered.
const MOST_HOSTS: usize = 1_000;

/// The proxies that calls go through. As in curl: `HTTPS_PROXY`, `HTTP_PROXY`,
/// `ALL_PROXY` and `NO_PROXY`, also in lower case; but an empty one is unset, as all settings are.
#[derive(Debug)]
pub(super) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    bypassed: String,
    matcher: Matcher,
    /// Whether a name is known to lead into a private network, and since when.
    private: Mutex<HashMap<String, (Instant, bool)>>,
}

impl Proxies {
    pub(super) fn of_environment() -> Self {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| given(name));
        Self::new(
            first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            first(&["NO_PROXY", "no_proxy"]).unwrap_or_default(),
        )
    }

    fn new(http: Option<String>, https: Option<String>, bypassed: String) -> Self {
        // Without a scheme it is http, as everywhere.
        let url = |proxy: String| {
            let proxy = proxy.trim();
            let scheme = if proxy.contains("://") { "" } else { "http://" };
            let url = format!("{scheme}{proxy}");
            // A password may have been given with characters that belong percent-encoded.
            Url::parse(&url).map_or(url, String::from)
        };
        let (http, https) = (http.map(url), https.map(url));
        let matcher = match (&http, &https) {
            // On macOS and Windows those of the system.
            (None, None) => Matcher::from_system(),
            (http, https) => {
                let text = |proxy: &Option<String>| proxy.clone().unwrap_or_default();
                Matcher::builder().http(text(http)).https(text(https)).no(bypassed.clone()).build()
            }
        };
        let proxies = Self { http, https, bypassed, matcher, private: Mutex::default() };
        proxies.each().for_each(|proxy| hold_password(&proxy));
        proxies
    }

    /// Makes a client use them.
    pub(super) fn route(&self, mut builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        if self.http.is_none() && self.https.is_none() {
            return Ok(builder);
        }
        let bypassed = NoProxy::from_string(&self.bypassed);
        builder = builder.no_proxy();
        if let Some(proxy) = &self.http {
            builder = builder.proxy(Proxy::http(proxy)?.no_proxy(bypassed.clone()));
        }
        if let Some(proxy) = &self.https {
            builder = builder.proxy(Proxy::https(proxy)?.no_proxy(bypassed));
        }
        Ok(builder)
    }

    /// Whether a host is a proxy's, however it is spelled.
    pub(super) fn have(&self, host: &str) -> bool {
        let plain = |host: &str| host.trim_end_matches('.').to_ascii_lowercase();
        self.each().any(|proxy| proxy.uri().host().is_some_and(|own| plain(own) == plain(host)))
    }

    /// Whether a file must not be fetched from this host: it is the proxy itself, or its name is
    /// known here to lead into a private network. A name that only the proxy knows is for the
    /// proxy to check.
    pub(super) async fn refuse(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().map(|host| host.trim_end_matches('.')) else { return true };
        if self.have(host) {
            return true;
        }
        // Without a proxy, the resolver checks the very addresses that are connected to.
        url.domain().is_some() && self.intercept(url.as_str()).is_some() && self.private(host).await
    }

    async fn private(&self, host: &str) -> bool {
        let mut known = self.private.lock().await;
        if let Some((since, private)) = known.get(host)
            && since.elapsed() < COUNTS
        {
            return *private;
        }
        let private = match timeout(LOOK_UP, lookup_host((host, 443))).await {
            Ok(Ok(mut found)) => !found.any(|found| is_public(found.ip())),
            Ok(Err(_)) | Err(_) => false,
        };
        if known.len() >= MOST_HOSTS {
            known.clear();
        }
        known.insert(host.to_owned(), (Instant::now(), private));
        private
    }

    fn each(&self) -> impl Iterator<Item = Intercept> {
        // Hosts that nobody can have, so that no rule bypasses the proxy for them but `*`.
        ["http://a.invalid", "https://a.invalid"].into_iter().filter_map(|url| self.intercept(url))
    }

    fn intercept(&self, url: &str) -> Option<Intercept> {
        self.matcher.intercept(&url.parse::<Uri>().ok()?)
    }
}

/// A proxy may quote what it was sent, as each server may.
fn hold_password(proxy: &Intercept) {
    let basic = proxy.basic_auth().and_then(|header| header.to_str().ok()?.split(' ').nth(1));
    let Some(basic) = basic else { return };
    hold(basic);
    let plain = STANDARD.decode(basic).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((_, password)) = plain.as_deref().and_then(|plain| plain.split_once(':')) {
        hold(password);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(https: &str, bypassed: &str) -> Proxies {
        Proxies::new(None, Some(https.to_owned()), bypassed.to_owned())
    }

    async fn refused(proxies: &Proxies, url: &str) -> bool {
        proxies.refuse(&url.parse().unwrap()).await
    }

    #[tokio::test]
    async fn a_file_is_not_fetched_from_the_proxy_nor_through_it_from_a_private_name() {
        for proxy in [
            "http://Proxy.corp.example:8080",
            "proxy.corp.example.",
            "http://u:p@proxy.corp.example",
        ] {
            let proxies = proxies(proxy, "");
            assert!(proxies.have("PROXY.corp.example."), "{proxy}");
            for own in ["https://proxy.corp.example/f", "https://proxy.corp.example.:444/f"] {
                assert!(refused(&proxies, own).await, "{own}");
            }
            // It resolves here, to this machine.
            assert!(refused(&proxies, "https://localhost/f").await);
            // RFC 6761: nobody resolves it, which is how a network without names looks.
            assert!(!refused(&proxies, "https://files.invalid/f").await);
            assert!(!refused(&proxies, "https://8.8.8.8/f").await);
        }
        let numbered = proxies("http://10.0.0.1:8080", "");
        assert!(refused(&numbered, "https://10.0.0.1/f").await);
        // Straight there: its resolver judges it.
        assert!(!refused(&proxies("http://10.0.0.1", "localhost"), "https://localhost/f").await);
    }

    #[test]
    fn what_a_proxy_is_sent_is_held() {
        let proxies = proxies("http://me:proxy%2Dcanary@ 7@h:1", "");
        assert!(proxies.have("h"));
        let text = format!("{} proxy-canary@ 7", STANDARD.encode("me:proxy-canary@ 7"));
        assert_eq!(super::super::said(&text), "[secret] [secret]");
    }
}
