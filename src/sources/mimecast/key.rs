//! What a batch file is called: its address without what signs it.

use sha2::{Digest, Sha256};
use url::Url;

/// Query parameters that sign a URL.
const SIGNING: [&str; 16] = [
    "awsaccesskeyid",
    "signature",
    "expires",
    "key-pair-id",
    "policy",
    // Of other clouds' storage, since Mimecast's list of hosts is not published.
    "googleaccessid",
    "se",
    "sig",
    "ske",
    "skt",
    "skoid",
    "sp",
    "spr",
    "sr",
    "st",
    "sv",
];

/// Stands in a key for the query that names the file.
const QUERY: &str = "sha256";

/// The file's name: scheme, host and path of its URL. What signs it is left out; of what else is in
/// its query, which may name the file or be a signature that nobody here knows, there is a hash.
pub(super) fn key(mut url: Url) -> String {
    let signs = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-amz-")
            || name.starts_with("x-goog-")
            || SIGNING.contains(&name.as_str())
    };
    let mut hasher = None;
    for (name, value) in url.query_pairs().filter(|(name, _)| !signs(name)) {
        let hasher = hasher.get_or_insert_with(Sha256::new);
        hasher.update(format!("{}={name}{}={value}", name.len(), value.len()));
    }
    // A URL that can have neither has neither.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.set_fragment(None);
    url.set_query(None);
    if let Some(hasher) = hasher {
        let hash: String =
            hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        url.query_pairs_mut().append_pair(QUERY, &hash);
    }
    url.into()
}

/// Whether two keys name one object, at the same host or at two: a store has regional names beside
/// its global one. That the size and the `ETag` are the same as well is for the caller to see.
pub(super) fn is_same_object(a: &str, b: &str) -> bool {
    let object = |key: &str| {
        let url = Url::parse(key).ok()?;
        Some((url.path().to_owned(), url.query().map(str::to_owned)))
    };
    object(a).is_some_and(|a| object(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_url_without_what_signs_it() {
        let cases = [
            (
                "https://b.s3.amazonaws.com/a/1.json.gz?X-Amz-Date=1&X-Amz-Signature=2",
                "https://b.s3.amazonaws.com/a/1.json.gz",
            ),
            ("https://h/1?AWSAccessKeyId=a&Signature=b&Expires=3#f", "https://h/1"),
            ("https://h/1?Key-Pair-Id=a&Policy=b", "https://h/1"),
            ("https://h/1?sv=1&sig=secret&X-Goog-Signature=secret", "https://h/1"),
            ("https://h/1", "https://h/1"),
            ("https://user:secret@h/1", "https://h/1"),
            ("data:1", "data:1"),
        ];
        for (url, expected) in cases {
            assert_eq!(key(Url::parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn of_a_query_that_may_name_the_file_a_key_has_a_hash() {
        let of = |url| key(Url::parse(url).unwrap());
        let (token, other) = (of("https://h/1?token=secret&Hmac=also"), of("https://h/1?token=b"));
        assert!(token.starts_with("https://h/1?sha256=") && !token.contains("secret"), "{token}");
        assert_ne!(token, other);
        assert_eq!(of("https://h/1?X-Amz-Date=1&token=secret&Hmac=also"), token);
        assert_ne!(of("https://h/1?a=bc"), of("https://h/1?ab=c"));
    }

    #[test]
    fn an_object_is_the_same_at_another_host() {
        let same = [
            ("https://b.s3.amazonaws.com/a/1", "https://b.s3.eu-west-1.amazonaws.com/a/1", true),
            ("https://h/1?sha256=a", "https://i/1?sha256=a", true),
            ("https://h/1?sha256=a", "https://i/1?sha256=b", false),
            ("https://h/1", "https://h/2", false),
            ("nothing", "nothing", false),
        ];
        for (a, b, expected) in same {
            assert_eq!(is_same_object(a, b), expected, "{a} {b}");
        }
    }
}
