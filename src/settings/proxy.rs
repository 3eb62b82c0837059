//! The proxies of the environment. The HTTP client silently connects directly where it cannot use
//! a proxy; here such a proxy is a fault.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::reader::{Reader, Wrong, wrong};

/// Which variable counts for each kind of address: the first that is not empty.
const NAMES: [[&str; 4]; 2] = [
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
];

const FIX: &str = "Set it to http://host:port or https://host:port, with user:password@ before the \
                   host if the proxy wants it, or unset it.";

pub(super) fn check(reader: &mut Reader<'_>) {
    for names in NAMES {
        let used = names.into_iter().find_map(|name| Some((name, reader.env(name)?)));
        if let Some((name, Err(fault))) = used.map(|(name, proxy)| (name, judge(&proxy))) {
            reader.fault(name, fault);
        }
    }
}

/// Never repeats the text, which may hold a password.
fn judge(proxy: &str) -> Result<(), Wrong> {
    let scheme = proxy.split_once("://").map_or("http", |(scheme, _)| scheme);
    if scheme.to_ascii_lowercase().starts_with("socks") {
        return wrong("it names a SOCKS proxy, and only HTTP proxies are used", FIX);
    }
    // Without a scheme it is http. A path is that of a script that chooses a proxy, which is none.
    let url = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let url = Url::parse(&url).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none()
    });
    let any = Uri::from_static("https://a.invalid");
    let used = |url: Url| Matcher::builder().https(String::from(url)).build().intercept(&any);
    if url.and_then(used).is_some() {
        return Ok(());
    }
    wrong("it is not the address of a proxy", FIX)
}
