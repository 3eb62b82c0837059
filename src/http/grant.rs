//! What a token endpoint grants: Mimecast's, Entra's, and the managed identity's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::{ErrorBody, Reply, server_time};

/// The form of `expires_on` in App Service's API 2017-09-01, before it was a number.
const DATES: [&str; 2] = ["%m/%d/%Y %H:%M:%S %:z", "%m/%d/%Y %I:%M:%S %p %:z"];

/// An access token.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The token itself.
    pub token: SecretString,
    /// How long it lives from now on.
    pub lives: Duration,
}

#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    #[serde(default)]
    expires_in: Value,
    #[serde(default)]
    expires_on: Value,
}

impl Grant {
    /// The token in a reply of status 2xx. Its life is `expires_in` (seconds) or `expires_on`
    /// (seconds since 1970, or a date), each as a number or as text; `lives` if neither can be read.
    ///
    /// # Errors
    /// What the reply is instead, in words that follow "it answered 200, but". There is no token
    /// in them.
    pub fn read(reply: &Reply, now: DateTime<Utc>, lives: Duration) -> Result<Self, String> {
        let answer = reply.json::<Answer>().map_err(|error| {
            let said = ErrorBody::read_json(&reply.body);
            said.map_or_else(|| error.to_string(), |said| format!("it says {said}"))
        })?;
        // A token must fit into a header.
        let token = answer.access_token.expose_secret().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("its token cannot be one".to_owned());
        }
        // By the server's own clock, if it shows it: ours may be wrong by hours.
        let now = server_time(&reply.headers).unwrap_or(now);
        let read = seconds(&answer.expires_in).or_else(|| left(&answer.expires_on, now));
        Ok(Self { token: token.into(), lives: read.unwrap_or(lives) })
    }
}

/// A number of seconds that is not negative.
fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    Duration::try_from_secs_f64(number?).ok()
}

/// How long it is until a point in time; zero if it has passed.
fn left(until: &Value, now: DateTime<Utc>) -> Option<Duration> {
    let since_1970 = match (seconds(until), until) {
        (Some(seconds), _) => seconds,
        (None, Value::String(text)) => {
            let date = DateTime::parse_from_rfc3339(text).ok();
            let date = date.or_else(|| {
                DATES.iter().find_map(|format| DateTime::parse_from_str(text, format).ok())
            });
            Duration::from_secs(date?.timestamp().try_into().ok()?)
        }
        _ => return None,
    };
    let now = Duration::from_secs(now.timestamp().try_into().ok()?);
    Some(since_1970.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::StatusCode;
    use reqwest::header::{DATE, HeaderMap, HeaderValue};

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(1_799);

    fn read(body: &str, date: Option<&'static str>) -> Result<(String, u64), String> {
        let mut headers = HeaderMap::new();
        headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
        let body = Bytes::from(body.to_owned());
        let reply = Reply { status: StatusCode::OK, headers, body };
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let grant = Grant::read(&reply, now, DEFAULT)?;
        Ok((grant.token.expose_secret().to_owned(), grant.lives.as_secs()))
    }

    #[test]
    fn every_way_to_say_how_long_a_token_lives_is_read() {
        for (life, expected) in [
            (r#""expires_in":3599"#, 3_599),
            (r#""expires_in":"3599""#, 3_599),
            (r#""expires_in":3599.7"#, 3_599),
            (r#""expires_in":" 3599.0 ""#, 3_599),
            (r#""expires_in":0"#, 0),
            (r#""expires_on":1790003600"#, 3_600),
            (r#""expires_on":"1790003600""#, 3_600),
            (r#""expires_on":1790003600.5"#, 3_600),
            (r#""expires_on":"2026-09-21T14:20:00Z""#, 400),
            (r#""expires_on":"2026-09-21T16:20:00.5+02:00""#, 400),
            (r#""expires_on":"09/21/2026 14:20:00 +00:00""#, 400),
            (r#""expires_on":"9/21/2026 2:20:00 PM +00:00""#, 400),
            (r#""expires_on":1789999999"#, 0),
            (r#""expires_on":1790003600,"expires_in":60"#, 60),
            (r#""expires_on":1790003600,"expires_in":null"#, 3_600),
            (r#""expires_on":"soon","expires_in":"later""#, 1_799),
            (r#""expires_in":-1"#, 1_799),
            (r#""expires_in":true,"expires_on":[1]"#, 1_799),
            (r#""token_type":"Bearer""#, 1_799),
        ] {
            let read = read(&format!(r#"{{"access_token":"t",{life}}}"#), None);
            assert_eq!(read, Ok(("t".to_owned(), expected)), "{life}");
        }
    }

    #[test]
    fn a_point_in_time_is_reckoned_by_the_servers_clock() {
        let body = "\u{feff}{\"access_token\":\" t\\n\",\"expires_on\":1790003600}";
        let ahead = read(body, Some("Mon, 21 Sep 2026 15:06:40 GMT"));
        assert_eq!(ahead, Ok(("t".to_owned(), 400)));
        assert_eq!(read(body, Some("soon")), Ok(("t".to_owned(), 3_600)));
    }

    #[test]
    fn what_is_no_grant_is_described_without_a_token() {
        for (body, expected) in [
            (r#"{"error":"invalid_client","error_description":"d"}"#, "it says invalid_client: d"),
            (r#"{"fail":[{"code":"app_forbidden"}]}"#, "it says app_forbidden"),
            (
                "<html><title>Web Page Blocked</title></html>",
                "it is an HTML page, not JSON (from a proxy or a firewall?)",
            ),
            ("", "it is empty"),
            (
                r#"{"token":"canary"}"#,
                "it is JSON of another shape: missing field `access_token` at line 1 column 18",
            ),
            (r#"{"access_token":" "}"#, "its token cannot be one"),
            (r#"{"access_token":"can ary"}"#, "its token cannot be one"),
        ] {
            assert_eq!(read(body, None), Err(expected.to_owned()));
        }
    }
}
