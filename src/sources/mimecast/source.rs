//! Mimecast as a [`Source`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use chrono::NaiveDate;
use futures::{StreamExt, stream};
use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, TRANSFER_ENCODING,
};
use secrecy::ExposeSecret;
use url::{Host, Url};

use super::api::Api;
use super::batch_file::{BatchFile, Limits};
use super::key::is_same_object;
use super::pace::{CallLog, Pace};
use crate::checkpoint::Cursor;
use crate::codes::Code;
use crate::http::{
    Clients, Failure, GaveUp, ReadSecret, RetryPolicy, TokenCache, describe, is_public, retry_after,
};
use crate::pipeline::source::{Content, Format, OpenPart, Opened, Page, Part};
use crate::pipeline::{Fault, Interrupt, Source};
use crate::seams::{Clock, Deadline, Random};
use crate::table::{CLOUD_INTEGRATED, Stream};

/// The name of the source.
pub const SOURCE: &str = "cloud-integrated";

/// A file of at most so many bytes counts as open when its first piece is here, mostly the whole,
/// so that nobody is woken to wait for it. More would only be held for longer.
const SMALL: u64 = 16 * 1024;

/// What to pull, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://api.services.mimecast.com`, or a region's own.
    pub base_url: Url,
    /// The API 2.0 application's id.
    pub client_id: String,
    /// The API 2.0 application's secret.
    pub client_secret: Arc<dyn ReadSecret>,
    /// The event types, each of which is a stream.
    pub types: Vec<&'static str>,
    /// The day at which a stream begins.
    pub start: NaiveDate,
    /// Listing calls in 15 minutes.
    pub calls_per_15_minutes: u32,
    /// Where calls are remembered, if not by this process alone.
    pub call_log: Option<Arc<dyn CallLog>>,
    /// What a line and a file may hold.
    pub limits: Limits,
    /// Whether batch files may come from this machine, over plain http: for tests.
    pub loopback: bool,
    /// How calls are repeated.
    pub retry: RetryPolicy,
}

/// Mimecast's Cloud Integrated security events.
pub struct MimecastSource {
    api: Api,
    types: Vec<&'static str>,
    limits: Limits,
    loopback: bool,
}

impl MimecastSource {
    /// A source that calls Mimecast with these clients.
    pub fn new(options: Options, clients: Clients, clock: Clock, random: Random) -> Self {
        Self {
            types: options.types,
            limits: options.limits,
            loopback: options.loopback,
            api: Api {
                clients,
                base_url: options.base_url,
                client_id: options.client_id,
                client_secret: options.client_secret,
                start: options.start,
                tokens: TokenCache::default(),
                pace: match &options.call_log {
                    Some(log) => Pace::new(options.calls_per_15_minutes).after(&log.ago()),
                    None => Pace::new(options.calls_per_15_minutes),
                },
                call_log: options.call_log,
                retry: options.retry,
                clock,
                random,
            },
        }
    }

    /// Reads the client secret, as a token would be asked for with it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn read_secret(&self) -> Result<(), Fault> {
        self.api.secret().await.map(drop)
    }

    /// Gets an access token, as the first listing would.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn sign_in(&self, deadline: Deadline) -> Result<(), Interrupt> {
        self.api.token(deadline).await.map(drop)
    }

    /// Where a batch file is, without what names or signs it: its host is asked, and not for the file.
    ///
    /// # Errors
    /// Its address is not one that may be connected to.
    pub async fn host_of(&self, part: &Part) -> Result<Url, Fault> {
        let mut url = self.address(part).await?;
        url.set_path("/");
        url.set_query(None);
        url.set_fragment(None);
        Ok(url)
    }

    /// The address of a file, if it may be connected to: a user and a password in it would be sent
    /// there. Its name is resolved, and the addresses checked, when the connection is made.
    async fn address(&self, part: &Part) -> Result<Url, Fault> {
        let url = match &part.content {
            Content::At(address) => Url::parse(address.expose_secret()).ok(),
            Content::Here(_) => None,
        };
        let allowed = url.filter(|url| {
            let public = match url.host() {
                Some(Host::Ipv4(ip)) => is_public(ip.into()),
                Some(Host::Ipv6(ip)) => is_public(ip.into()),
                Some(Host::Domain(_)) => true,
                None => false,
            };
            let anonymous = url.username().is_empty() && url.password().is_none();
            anonymous && (self.loopback || (url.scheme() == "https" && public))
        });
        match allowed {
            Some(url) if self.api.clients.may_fetch(&url).await => Ok(url),
            _ => Err(Fault::passing(
                Code::FileAddressRefused,
                format!(
                    "batch file {} is not at a public https address without user and password",
                    part.key
                ),
                "do not trust it: tell Mimecast's support what its listing says",
            )),
        }
    }
}

#[async_trait]
impl Source for MimecastSource {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn owner(&self) -> BTreeMap<String, String> {
        let base_url = self.api.base_url.as_str().trim_end_matches('/').to_owned();
        BTreeMap::from([
            ("base_url".to_owned(), base_url),
            ("client_id".to_owned(), self.api.client_id.clone()),
        ])
    }

    fn streams(&self) -> Vec<Stream> {
        self.types.iter().map(|name| stream(name)).collect()
    }

    fn format(&self, stream: &Stream) -> Arc<dyn Format> {
        Arc::new(BatchFile::new(self.limits, stream.table, self.api.clock.now()))
    }

    async fn page(
        &self,
        stream: &Stream,
        at: Option<&Cursor>,
        deadline: Deadline,
    ) -> Result<Page, Interrupt> {
        self.api.page(stream.name, at, deadline).await
    }

    fn finished(&self, stream: &Stream) {
        self.api.pace.rest(stream.name);
    }

    fn is_same(&self, known: &str, listed: &str) -> bool {
        is_same_object(known, listed)
    }

    /// A plain GET: the address is signed, so neither the token nor a redirect may come into it.
    async fn open(&self, part: &Part, deadline: Deadline) -> Result<Opened, Interrupt> {
        let url = match self.address(part).await {
            Ok(url) => url,
            Err(fault) => return Ok(Opened::Refused(fault)),
        };
        let (api, answered) = (&self.api, AtomicBool::new(false));
        let attempt = || async {
            answered.store(false, Ordering::Relaxed);
            let request = api.clients.files.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            let sent = request.send().await;
            let response = sent.map_err(|error| Failure::passing(describe(&error)))?;
            let status = response.status();
            answered.store(true, Ordering::Relaxed);
            Err(match status {
                _ if is_page(&response) => Failure::passing(format!(
                    "{status} with an HTML page (from a proxy or a firewall?)"
                )),
                StatusCode::OK => {
                    return Ok(Opened::Part(opened(response, self.limits.file).await));
                }
                // How object stores word an address that is no longer good differs.
                StatusCode::BAD_REQUEST
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::GONE => return Ok(Opened::Expired(status.to_string())),
                StatusCode::TOO_MANY_REQUESTS => {
                    Failure::Throttled(retry_after(response.headers(), api.clock.now()))
                }
                _ => Failure::passing(status),
            })
        };
        let gave_up = |gave_up: Option<GaveUp>| match gave_up {
            None => Interrupt::OutOfTime,
            Some(gave_up) => unreachable(part, &gave_up.said).into(),
        };
        let opened = api.retry.start(&api.random, deadline).run(&part.key, attempt, gave_up).await;
        match opened {
            // The host works: it is about this file.
            Err(Interrupt::Fault(fault)) if answered.into_inner() => Ok(Opened::Refused(*fault)),
            opened => opened,
        }
    }
}

/// The streams of all event types.
pub fn streams() -> Vec<Stream> {
    ["entities", "mailflow", "urlclick"].map(stream).to_vec()
}

/// The stream of an event type.
pub fn stream(name: &'static str) -> Stream {
    Stream { name, table: &CLOUD_INTEGRATED }
}

/// A download, which breaks off where no file within the limit can still go on: gzip makes none
/// much larger. The first piece of a small file is here then.
async fn opened(response: reqwest::Response, limit: u64) -> OpenPart {
    let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok().map(str::to_owned));
    let said = |name| response.headers().contains_key(name);
    let end_is_proof = said(CONTENT_LENGTH) || said(TRANSFER_ENCODING);
    let small = response.content_length().is_some_and(|length| length <= SMALL);
    let mut left = limit.saturating_add(limit / 8);
    let bytes = response.bytes_stream().fuse().map(move |chunk| {
        let chunk = chunk.map_err(|error| io::Error::other(describe(&error)))?;
        left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            let reason = format!("it is larger than {limit} bytes even as it comes");
            io::Error::new(io::ErrorKind::FileTooLarge, reason)
        })?;
        Ok(chunk)
    });
    let mut bytes = bytes.boxed();
    let first = if small { bytes.next().await } else { None };
    OpenPart { etag, bytes: stream::iter(first).chain(bytes).boxed(), end_is_proof }
}

/// Whether a refusal is not the object store's, which words its own in XML.
fn is_page(response: &reqwest::Response) -> bool {
    let of_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    response.status().is_client_error()
        && of_type.is_some_and(|of_type| of_type.to_ascii_lowercase().starts_with(b"text/html"))
}

fn unreachable(part: &Part, failed: &str) -> Fault {
    Fault::passing(
        Code::FileUnreachable,
        format!("batch file {} cannot be downloaded: {failed}", part.key),
        "nothing is lost, the next run goes on from the same line; if it stays so, check that \
         this machine may reach the file's host over https",
    )
}

impl std::fmt::Debug for MimecastSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MimecastSource").field("owner", &self.owner()).finish_non_exhaustive()
    }
}
