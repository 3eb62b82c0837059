//! The way to each host: its name, its certificate, and any answer at all. And this machine's clock,
//! against theirs.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use url::Url;

use super::{Given, Rung, Rungs, Tools, Verdict};
use crate::http::{Unreached, reach};
use crate::settings::{
    AzureIdentity, BlobAccessSettings, CredentialSettings, SecretSettings, StateLocation,
};

/// How far a clock may be off: what Entra tolerates of an assertion's times.
const MOST_SKEW: TimeDelta = TimeDelta::minutes(5);

/// A host, and the setting that names it.
struct Host {
    url: Url,
    setting: &'static str,
}

/// The hosts that gave an answer.
pub(super) struct Hosts(Vec<Url>);

impl Hosts {
    pub(super) fn reached(&self, url: &Url) -> bool {
        self.0.iter().any(|reached| reached.origin() == url.origin())
    }

    /// Whether tokens of this identity can be asked for.
    pub(super) fn issue_to(&self, identity: &AzureIdentity) -> bool {
        authority(identity).is_none_or(|authority| self.reached(authority))
    }
}

/// Where Entra is, for an identity that asks it itself.
fn authority(identity: &AzureIdentity) -> Option<&Url> {
    match identity.credential {
        CredentialSettings::ClientSecret { .. } | CredentialSettings::WorkloadIdentity { .. } => {
            Some(&identity.authority_host)
        }
        CredentialSettings::ManagedIdentity { .. } | CredentialSettings::AzureCli => None,
    }
}

fn hosts(given: &Given) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut add = |setting, url: &Url| {
        if hosts.iter().all(|host| host.url.origin() != url.origin()) {
            hosts.push(Host { url: url.clone(), setting });
        }
    };
    let mut identities = Vec::new();
    if let Some(mimecast) = &given.mimecast {
        add("MIMECAST_BASE_URL", &mimecast.base_url);
        if let SecretSettings::Vault(secret) = &mimecast.client_secret {
            add("MIMECAST_CLIENT_SECRET_URI", &root(&secret.url));
            identities.push(&secret.identity);
        }
    }
    if let Some(graph) = &given.graph {
        add("AZURE_CLOUD", &graph.base_url);
        identities.push(&graph.identity);
    }
    if let Some(ingestion) = &given.ingestion {
        add("LOGS_INGESTION_ENDPOINT", &ingestion.endpoint);
        identities.push(&ingestion.identity);
    }
    if let Some(StateLocation::Blob { container, access }) = &given.state {
        add("CHECKPOINT_URL", container);
        if let BlobAccessSettings::Identity(identity) = access {
            identities.push(identity);
        }
    }
    for identity in identities {
        if let CredentialSettings::ClientSecret { secret: SecretSettings::Vault(secret), .. } =
            &identity.credential
        {
            add("AZURE_CLIENT_SECRET_URI", &root(&secret.url));
        }
        if let Some(authority) = authority(identity) {
            add("AZURE_AUTHORITY_HOST", authority);
        }
    }
    hosts
}

/// The URL's host, without what names a secret there.
fn root(url: &Url) -> Url {
    let mut root = url.clone();
    root.set_path("/");
    root
}

/// Asks all of them at the same time.
pub(super) async fn rungs(given: &Given, tools: &Tools<'_>, rungs: &mut Rungs<'_>) -> Hosts {
    let asked = hosts(given).into_iter().map(|host| async {
        let answer = reach(&tools.clients.api, &host.url).await;
        (host, answer, tools.clock.now())
    });
    let (mut reached, mut clock) = (Vec::new(), None);
    for (host, answer, now) in join_all(asked).await {
        if let Ok(Some(time)) = answer {
            clock.get_or_insert_with(|| clock_rung(&host.url, now, time));
        }
        rungs.push(reach_rung("reach", &host.url, host.setting, &answer));
        if answer.is_ok() {
            reached.push(host.url);
        }
    }
    let unknown = || Rung::skipped("clock", "no server gave its time");
    rungs.push(clock.unwrap_or_else(unknown));
    Hosts(reached)
}

/// The rung `<group>/<host>` for a host that `setting` names.
pub(super) fn reach_rung<T>(
    group: &str,
    url: &Url,
    setting: &str,
    answer: &Result<T, Unreached>,
) -> Rung {
    let host = url.host_str().unwrap_or_default();
    let at = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let rung = |answer: &str| Rung::ok(format!("{group}/{at}"), format!("GET {url}"), answer);
    let Err(why) = answer else { return rung("it answers") };
    let failed = rung(&why.to_string());
    match why {
        Unreached::NoName(_) => failed.but(
            Verdict::Fail,
            format!(
                "check {setting}, HTTPS_PROXY if it is set, and the name server of this machine; where \
                 only a proxy may be used, set HTTPS_PROXY to it"
            ),
        ),
        Unreached::Certificate(_) => failed.but(
            Verdict::Fail,
            format!(
                "something on the way, such as a proxy that inspects TLS, shows a certificate of \
                 its own: let it pass {host} unopened, or add its CA to this machine's trusted \
                 certificates (or to the PEM file that SSL_CERT_FILE names)"
            ),
        ),
        Unreached::Other(_) => failed.but(
            Verdict::Inconclusive,
            format!(
                "try again; if it stays so, check {setting}, and the firewall and proxy between \
                 this machine and {host}"
            ),
        ),
    }
}

fn clock_rung(url: &Url, now: DateTime<Utc>, time: DateTime<Utc>) -> Rung {
    let off = now - time;
    let host = url.host_str().unwrap_or_default();
    let (seconds, side) =
        (off.abs().num_seconds(), if off < TimeDelta::zero() { "behind" } else { "ahead" });
    let compared = Rung::ok(
        "clock",
        format!("this machine's clock against that of {host}"),
        format!("it is {seconds} s {side}"),
    );
    if off.abs() <= MOST_SKEW {
        return compared;
    }
    compared.but(
        Verdict::Fail,
        "set this machine's clock, and let it be kept right by NTP: with a clock that is more than 5 \
         minutes off, tokens are refused and rows get a wrong time of arrival",
    )
}
