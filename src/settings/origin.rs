//! URLs that name a server and nothing on it.

use url::{Host, Url};

/// Whether the URL's host is this machine by its name or address: `localhost`, `127.0.0.0/8` or
/// `::1`. No name is looked up.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An `http` or `https` URL of a host, perhaps with a port, else what is wrong with it. The text
/// itself is not repeated: it may hold a password.
pub(super) fn origin(text: &str) -> Result<Url, String> {
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
    else {
        return Err("it is not a URL that begins with https://".to_owned());
    };
    let extra = if !url.username().is_empty() || url.password().is_some() {
        "a user name or password"
    } else if url.path() != "/" {
        "a path"
    } else if url.query().is_some() || url.fragment().is_some() {
        "something after `?` or `#`"
    } else {
        return Ok(url);
    };
    Err(format!("it has {extra}, where only https:// and a host belong"))
}

/// An `https` URL of a host on the usual port, else what is wrong with it.
pub(super) fn https_host(url: &Url) -> Result<&str, String> {
    if url.scheme() != "https" {
        return Err("it begins with http://, which would send what it carries in the open".into());
    }
    if url.port().is_some() {
        return Err("it has a port, where only https:// and a host belong".into());
    }
    url.domain().ok_or_else(|| "it has an address, where a host's name belongs".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_and_no_lookalike() {
        let cases = [
            ("http://127.0.0.1:80", true),
            ("https://127.200.3.4", true),
            ("http://[::1]:8080", true),
            ("http://LOCALHOST", true),
            // The URL standard reads these as 127.0.0.1.
            ("http://2130706433", true),
            ("http://127.1", true),
            ("https://127.0.0.1.example.com", false),
            ("https://localhost.example.com", false),
            ("https://10.0.0.1", false),
            ("https://0.0.0.0", false),
            ("https://[::2]", false),
            ("https://user:127.0.0.1@example.com", false),
        ];
        for (url, expected) in cases {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
