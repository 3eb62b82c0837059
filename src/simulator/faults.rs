//! What goes wrong, and when: a script first, then chance from a seed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A kind of request that faults are planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Mimecast's `/oauth/token`.
    MimecastToken,
    /// Mimecast's listing of batch files.
    Listing,
    /// A signed URL.
    File,
    /// Entra's token endpoint and the managed identity's.
    AzureToken,
    /// The key vault's secret.
    Secret,
    /// A body to the ingestion endpoint.
    Post,
    /// A request to Microsoft Graph.
    Graph,
}

/// What happens instead of, or to, a proper answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: lets one request of a script pass.
    Nothing,
    /// 401 with this code.
    Unauthorized(String),
    /// 403: a role, a product or an access right is missing.
    Forbidden,
    /// 404.
    NotFound,
    /// 408.
    RequestTimeout,
    /// 413.
    TooLarge,
    /// 429 with this header and its value, or without any.
    TooManyRequests(Option<(&'static str, String)>),
    /// 500 with a body of HTML.
    ServerError,
    /// 503.
    Unavailable,
    /// 400 with this code and message.
    BadRequest {
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// The connection is closed before anything was done.
    Reset,
    /// The request is carried out, then the connection is closed without an answer.
    LostReply,
    /// 403 as an object store words it when a signature has run out.
    Expired,
    /// At most this many bytes of the body arrive, then the connection is closed.
    CutShort(usize),
    /// Headers and no byte, as if that were all.
    Empty,
    /// The file arrives whole, but is damaged from this byte on: now and at every later download.
    Corrupt(usize),
    /// 200 with a text that is not JSON.
    NotJson,
    /// This status with this body, as a proxy or firewall answers.
    Says(u16, Vec<u8>),
    /// 302 to this place.
    Redirect(String),
    /// This status with everything that was sent, as a gateway that explains itself words it: the
    /// headers that matter, the query and the body, as they are, form-encoded and in Base64.
    Echo(u16),
    /// The body comes in chunks of 4 KiB, each after this delay.
    Slow(Duration),
}

/// Decides for each request what goes wrong with it.
#[derive(Clone, Default)]
pub struct FaultPlan {
    script: Vec<Scripted>,
    seeded: Option<Seeded>,
    pub(super) poison: Option<Poison>,
    pub(super) watch: Option<Watch>,
}

type Poison = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

pub(super) type Watch = Arc<dyn Fn(u64, Moment) -> bool + Send + Sync>;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Nothing is done about it yet.
    Arrived,
    /// It is carried out, and not answered yet.
    CarriedOut,
}

#[derive(Debug, Clone)]
struct Scripted {
    endpoint: Endpoint,
    needle: String,
    fault: Fault,
    times: usize,
}

#[derive(Debug, Clone, Copy)]
struct Seeded {
    seed: u64,
    per_mille: u16,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// About `per_mille` of a thousand requests meet a passing fault of a kind that fits them.
    /// Which ones depends on the seed, the request and how often it was made, not on the order in
    /// which different requests come in.
    pub fn seeded(seed: u64, per_mille: u16) -> Self {
        Self { seeded: Some(Seeded { seed, per_mille }), ..Self::default() }
    }

    /// Then this fault, once. Faults of one endpoint are met in the order of the script, before
    /// any that come by chance.
    #[must_use]
    pub fn once(self, endpoint: Endpoint, fault: Fault) -> Self {
        self.times(1, endpoint, fault)
    }

    /// Then this fault, so many times; `usize::MAX` is for ever.
    #[must_use]
    pub fn times(self, times: usize, endpoint: Endpoint, fault: Fault) -> Self {
        self.matching("", times, endpoint, fault)
    }

    /// Then this fault, so many times, for requests whose name or identity contains `needle`: a
    /// listing's query, a file's `<stream>/<name>`, a token's resource, the stream of a body.
    #[must_use]
    pub fn matching(
        mut self,
        needle: &str,
        times: usize,
        endpoint: Endpoint,
        fault: Fault,
    ) -> Self {
        self.script.push(Scripted { endpoint, needle: needle.to_owned(), fault, times });
        self
    }

    /// Every body that has a row for which `rule` is true is refused with a 400.
    #[must_use]
    pub fn poison(mut self, rule: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.poison = Some(Arc::new(rule));
        self
    }

    /// `watch` is asked at each moment of each request, which are counted from 1 as they come in;
    /// where it says no, the connection is closed instead of going on.
    #[must_use]
    pub fn watch(mut self, watch: impl Fn(u64, Moment) -> bool + Send + Sync + 'static) -> Self {
        self.watch = Some(Arc::new(watch));
        self
    }

    pub(super) fn push(&mut self, endpoint: Endpoint, fault: Fault) {
        self.script.push(Scripted { endpoint, needle: String::new(), fault, times: 1 });
    }

    /// The fault for the `attempt`-th request of this name and identity.
    pub(super) fn draw(
        &mut self,
        endpoint: Endpoint,
        name: &str,
        identity: &str,
        attempt: u64,
    ) -> Fault {
        let due = |entry: &Scripted| {
            let named = [name, identity].iter().any(|text| text.contains(&entry.needle));
            entry.endpoint == endpoint && entry.times > 0 && named
        };
        if let Some(entry) = self.script.iter_mut().find(|entry| due(entry)) {
            entry.times -= 1;
            return entry.fault.clone();
        }
        self.seeded.map_or(Fault::Nothing, |seeded| seeded.draw(endpoint, identity, attempt))
    }
}

impl fmt::Debug for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultPlan")
            .field("script", &self.script)
            .field("seeded", &self.seeded)
            .field("poison", &self.poison.is_some())
            .field("watch", &self.watch.is_some())
            .finish()
    }
}

impl Seeded {
    fn draw(self, endpoint: Endpoint, identity: &str, attempt: u64) -> Fault {
        let text = format!("{} {endpoint:?} {attempt} {identity}", self.seed);
        let digest = Sha256::digest(text.as_bytes());
        let seed = digest.iter().take(8).fold(0, |seed, &byte| (seed << 8) | u64::from(byte));
        let mut rng = fastrand::Rng::with_seed(seed);
        if rng.u16(..1000) >= self.per_mille {
            return Fault::Nothing;
        }
        passing(endpoint, &mut rng)
    }
}

/// A fault that goes away when the client does the right thing. Those that mean a wrong setting, a
/// bad row or a bad file are only ever scripted: to a client they are real.
fn passing(endpoint: Endpoint, rng: &mut fastrand::Rng) -> Fault {
    let throttled = match endpoint {
        Endpoint::Post | Endpoint::AzureToken | Endpoint::Secret | Endpoint::Graph => {
            ("Retry-After", "0".to_owned())
        }
        _ => ("X-RateLimit-Reset", rng.u8(1..50).to_string()),
    };
    let own = match endpoint {
        Endpoint::MimecastToken | Endpoint::AzureToken | Endpoint::Secret => Fault::LostReply,
        Endpoint::Listing | Endpoint::Graph if rng.bool() => Fault::CutShort(rng.usize(..200)),
        Endpoint::Listing => Fault::Unauthorized("token_verification_failed".to_owned()),
        Endpoint::Graph => Fault::Unauthorized("InvalidAuthenticationToken".to_owned()),
        Endpoint::File if rng.bool() => Fault::Expired,
        Endpoint::File => Fault::CutShort(rng.usize(..100_000)),
        Endpoint::Post if rng.bool() => Fault::RequestTimeout,
        Endpoint::Post => Fault::Unauthorized("InvalidToken".to_owned()),
    };
    match rng.u8(..7) {
        0 if endpoint != Endpoint::File => Fault::TooManyRequests(Some(throttled)),
        1 => Fault::ServerError,
        2 => Fault::Unavailable,
        3 => Fault::Reset,
        4 => Fault::LostReply,
        _ => own,
    }
}
