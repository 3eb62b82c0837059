//! How this program uses Microsoft's SDK: transport, retries, error texts.

use std::error::Error;

use azure_core::http::{ClientOptions, ExponentialRetryOptions, RetryOptions};
use azure_core::time::Duration;

use super::transport::transport;
use crate::http::said;

/// What the SDK puts before the text of any error that has nothing to do with the network.
const NOT_REPEATED: &str = "non-transport error occurred which will not be retried";

/// Options with `http` as the transport and at most 15 s of retries, the time of the requests
/// themselves not counted: the SDK's own default holds a run up for 82 s.
pub(super) fn client_options(http: &reqwest::Client) -> ClientOptions {
    ClientOptions {
        transport: Some(transport(http)),
        retry: RetryOptions::exponential(ExponentialRetryOptions {
            // The last delay comes on top.
            max_total_elapsed: Duration::seconds(11),
            max_delay: Duration::seconds(4),
            ..ExponentialRetryOptions::default()
        }),
        ..ClientOptions::default()
    }
}

/// `error`, what caused it, and so on.
pub(super) fn causes(error: &azure_core::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source())
}

/// What `error` and its causes say, in one line and without the query of any URL, where a SAS is.
/// Of a request that did not come through, only what kept it.
pub(super) fn explain(error: &azure_core::Error) -> String {
    let causes: Vec<_> = causes(error).collect();
    let transport = causes.iter().rposition(|cause| cause.is::<reqwest::Error>());
    let first = transport.map_or(0, |transport| (transport + 1).min(causes.len() - 1));
    let mut line = String::new();
    for cause in &causes[first..] {
        let text = said(&cause.to_string());
        let text = text.split(" To troubleshoot, visit ").next().unwrap_or_default();
        if !line.contains(text) && text != NOT_REPEATED {
            let colon = if line.is_empty() { "" } else { ": " };
            line.push_str(colon);
            line.push_str(text);
        }
    }
    line
}
