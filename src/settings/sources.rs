//! Which sources are on, and what those of Microsoft Graph need.

use chrono::{NaiveDate, TimeDelta};
use url::Url;

use super::azure::{AzureCloud, cloud};
use super::identity::{AzureIdentity, CredentialSettings, Purpose, authority_host, identity};
use super::mimecast;
use super::origin::{https_host, is_loopback, origin};
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, identifier, whole_number, wrong};
use super::run;
use super::secret::Forms;
use crate::schedule::Schedule;

/// A system that rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// Mimecast's Cloud Integrated events.
    CloudIntegrated,
    /// Microsoft Entra ID Protection.
    EntraRisk,
    /// Microsoft Entra's directory.
    Directory,
}

impl SourceName {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::CloudIntegrated, Self::EntraRisk, Self::Directory];

    /// As `SOURCES` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudIntegrated => "cloud-integrated",
            Self::EntraRisk => "entra-risk",
            Self::Directory => "directory",
        }
    }
}

/// How Microsoft Graph is called.
#[derive(Clone, Debug)]
pub struct GraphSettings {
    /// That of the cloud, or loopback; without a path.
    pub base_url: Url,
    /// The cloud, whose [`AzureCloud::graph`] the token is for.
    pub cloud: AzureCloud,
    /// Who asks.
    pub identity: AzureIdentity,
}

impl GraphSettings {
    /// The tenant, where a setting names it.
    pub fn tenant(&self) -> Option<&str> {
        match &self.identity.credential {
            CredentialSettings::ClientSecret { tenant_id, .. }
            | CredentialSettings::WorkloadIdentity { tenant_id, .. } => Some(tenant_id),
            CredentialSettings::ManagedIdentity { .. } | CredentialSettings::AzureCli => None,
        }
    }
}

/// What `entra-risk` needs.
#[derive(Clone, Debug)]
pub struct EntraRiskSettings {
    /// When it runs.
    pub schedule: Schedule,
    /// The day from which on detections are sent; from the first run on, if `None`.
    pub start: Option<NaiveDate>,
    /// How Graph is called.
    pub graph: GraphSettings,
}

/// What `directory` needs.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// When it runs.
    pub schedule: Schedule,
    /// After so long all is read again.
    pub round: TimeDelta,
    /// How Graph is called.
    pub graph: GraphSettings,
}

/// `SOURCES`, in the order of [`SourceName::ALL`].
pub(super) fn sources(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Vec<SourceName>> {
    reader.optional("SOURCES", &raw.sources, SourceName::CloudIntegrated.as_str(), parse_sources)
}

fn parse_sources(text: &str) -> Result<Vec<SourceName>, Wrong> {
    const FIX: &str =
        "Give some of cloud-integrated, entra-risk and directory, with commas between them.";
    let chosen: Vec<&str> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let is = |source: SourceName, name: &str| source.as_str().eq_ignore_ascii_case(name);
    let is_none = |name: &&&str| !SourceName::ALL.iter().any(|source| is(*source, name));
    if let Some(unknown) = chosen.iter().find(is_none) {
        return wrong(format!("{unknown:?} is not a source"), FIX);
    }
    if chosen.is_empty() {
        return wrong("it names no source", FIX);
    }
    let is_chosen = |source: &SourceName| chosen.iter().any(|name| is(*source, name));
    Ok(SourceName::ALL.into_iter().filter(is_chosen).collect())
}

/// The sources that `SOURCES` names, if it is right, whatever else is not.
pub fn named_sources(raw: &RawSettings) -> Option<Vec<SourceName>> {
    parse_sources(given(&raw.sources).unwrap_or(SourceName::CloudIntegrated.as_str())).ok()
}

/// Whether a source that is on is on this machine, where some settings are laxer.
pub(super) fn on_loopback(raw: &RawSettings) -> bool {
    // A wrong one is a fault of its own, and must not cause others.
    let Some(sources) = named_sources(raw) else { return true };
    sources.iter().any(|source| match source {
        SourceName::CloudIntegrated => mimecast::on_loopback(raw),
        SourceName::EntraRisk | SourceName::Directory => {
            let own = given(&raw.graph_base_url);
            own.is_some_and(|text| origin(text).map_or(true, |url| is_loopback(&url)))
        }
    })
}

/// When a source runs.
pub(super) fn schedule(
    source: SourceName,
    raw: &RawSettings,
    reader: &mut Reader<'_>,
) -> Option<Schedule> {
    let (setting, value, default) = match source {
        SourceName::CloudIntegrated => return run::schedule(raw, reader),
        SourceName::EntraRisk => {
            ("ENTRA_RISK_SCHEDULE", &raw.entra_risk_schedule, "0 */15 * * * *")
        }
        SourceName::Directory => ("DIRECTORY_SCHEDULE", &raw.directory_schedule, "0 0 * * * *"),
    };
    run::schedule_of(setting, value, default, reader)
}

pub(super) fn entra_risk(
    raw: &RawSettings,
    today: NaiveDate,
    reader: &mut Reader<'_>,
) -> Option<EntraRiskSettings> {
    let schedule = schedule(SourceName::EntraRisk, raw, reader);
    let start = match given(&raw.entra_risk_start_date) {
        None => Some(None),
        Some(text) => mimecast::start_date(text, today)
            .map(Some)
            .map_err(|wrong| reader.fault("ENTRA_RISK_START_DATE", wrong))
            .ok(),
    };
    if cloud(raw, reader) == Some(AzureCloud::China) {
        let problem = "it names entra-risk, and Azure in China has no such API".to_owned();
        let fix = "Take entra-risk out of it.".to_owned();
        reader.fault("SOURCES", Wrong { problem, fix });
    }
    let graph = graph(raw, reader);
    Some(EntraRiskSettings { schedule: schedule?, start: start?, graph: graph? })
}

pub(super) fn directory(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<DirectorySettings> {
    let schedule = schedule(SourceName::Directory, raw, reader);
    // Rules look back 14 days at most, and must find each object.
    let days = reader.optional(
        "DIRECTORY_ROUND_DAYS",
        &raw.directory_round_days,
        "7",
        whole_number::<u32>(1..=13, "number of days"),
    );
    let graph = graph(raw, reader);
    Some(DirectorySettings {
        schedule: schedule?,
        round: TimeDelta::days(i64::from(days?)),
        graph: graph?,
    })
}

pub(super) fn graph(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<GraphSettings> {
    let cloud = cloud(raw, reader);
    let own = cloud.unwrap_or(AzureCloud::Public).graph();
    let base_url = reader.optional("GRAPH_BASE_URL", &raw.graph_base_url, own, |text| {
        let fix =
            format!("Unset it: {own} is used. (Another is taken on this machine, for tests.)");
        let url = origin(text).or_else(|problem| wrong(problem, &*fix))?;
        if is_loopback(&url) {
            return Ok(url);
        }
        let host = https_host(&url).or_else(|problem| wrong(problem, &*fix))?;
        if own.strip_prefix("https://") == Some(host) {
            return Ok(url);
        }
        wrong(format!("{host} is not Microsoft Graph of this cloud"), fix)
    });
    let identity = graph_identity(raw, reader);
    Some(GraphSettings { base_url: base_url?, cloud: cloud?, identity: identity? })
}

/// The program's own identity, unless an application is named.
fn graph_identity(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<AzureIdentity> {
    let forms = Forms {
        itself: "ENTRA_CLIENT_SECRET",
        file: ("ENTRA_CLIENT_SECRET_FILE", &raw.entra_client_secret_file),
        url: ("ENTRA_CLIENT_SECRET_URI", &raw.entra_client_secret_uri),
    };
    let names = [
        ("ENTRA_TENANT_ID", given(&raw.entra_tenant_id)),
        ("ENTRA_CLIENT_ID", given(&raw.entra_client_id)),
    ];
    let named = names.iter().find(|(_, value)| value.is_some()).map(|(name, _)| *name);
    let Some(set) = forms.set(reader).first().copied().or(named) else {
        return identity(raw, Purpose::Beside, reader);
    };
    let fix = |what: &str| format!("{set} is set and needs it: set the {what}.");
    let tenant_id =
        reader.required("ENTRA_TENANT_ID", &raw.entra_tenant_id, &fix("tenant's id"), identifier);
    let client_id = reader.required(
        "ENTRA_CLIENT_ID",
        &raw.entra_client_id,
        &fix("application's (client) id"),
        identifier,
    );
    let secret = forms.read(&fix("application's secret"), raw, reader, |reader| {
        identity(raw, Purpose::Beside, reader)
    });
    let authority_host = authority_host(raw, reader);
    let credential = CredentialSettings::ClientSecret {
        tenant_id: tenant_id?,
        client_id: client_id?,
        secret: secret?,
    };
    Some(AzureIdentity { authority_host: authority_host?, credential })
}
