//! Rung 1: the settings, all at once, and the schedule.

use chrono::{DateTime, Days, NaiveDate, Utc};
use secrecy::ExposeSecret as _;

use super::{Rung, SETTINGS, Verdict, WRONG_SETTINGS};
use crate::schedule::Schedule;
use crate::settings::{
    AzureIdentity, BlobAccessSettings, CredentialSettings, DryRunSettings, GraphSettings,
    IngestionSettings, MimecastSettings, RawSettings, ReplaySettings, SecretSettings, SettingFault,
    Settings, SourceName, StateLocation, StateSettings, UnknownSetting, named_sources,
};

/// The settings as far as they are valid: what one command does not need may be wrong, and the rest is
/// tested all the same.
#[derive(Debug)]
pub struct Given {
    /// How to reach Mimecast; its listings begin yesterday.
    pub mimecast: Option<MimecastSettings>,
    /// The sources that are on.
    pub(super) sources: Vec<SourceName>,
    /// How to reach Microsoft Graph, if a source needs it.
    pub graph: Option<GraphSettings>,
    /// Where rows go.
    pub ingestion: Option<IngestionSettings>,
    /// Where checkpoints and quarantine are kept.
    pub state: Option<StateLocation>,
    schedules: Vec<(SourceName, Schedule)>,
    faults: Vec<SettingFault>,
    warnings: Vec<String>,
    unknown: Vec<UnknownSetting>,
}

impl Given {
    /// Checks everything; see [`Settings::resolve`]. `unknown` are the variables that are no setting.
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
        today: NaiveDate,
        unknown: Vec<UnknownSetting>,
    ) -> Self {
        let whole = Settings::resolve(raw, env, today);
        let (schedules, mut faults, warnings) = match whole {
            Ok(settings) => (settings.schedules(), Vec::new(), settings.state.warnings),
            Err(faults) => (Vec::new(), faults.faults().to_vec(), Vec::new()),
        };
        // Where it is not known which are on, the one that most have is tried.
        let sources = named_sources(raw).unwrap_or_else(|| vec![SourceName::CloudIntegrated]);
        let of_mimecast = |source: &SourceName| *source == SourceName::CloudIntegrated;
        let mimecast = DryRunSettings::resolve(raw, env, today).ok();
        let mimecast = mimecast.filter(|_| sources.iter().any(of_mimecast));
        let graph = GraphSettings::resolve(raw, env).ok();
        let graph = graph.filter(|_| !sources.iter().all(of_mimecast));
        let ingestion = ReplaySettings::resolve(raw, env).ok();
        let state = StateSettings::resolve(raw, env).ok();
        let mut given = Self {
            sources,
            // One call for each stream is enough to see whether it may be listed.
            mimecast: mimecast.map(|settings| MimecastSettings {
                start_date: today.checked_sub_days(Days::new(1)).unwrap_or(today),
                ..settings.mimecast
            }),
            graph,
            ingestion: ingestion.map(|settings| settings.ingestion),
            state: state.map(|settings| settings.location),
            schedules,
            faults: Vec::new(),
            warnings,
            unknown,
        };
        let ingestion = given.ingestion.take_if(|to| has_id_for_secret(&to.identity));
        let graph = given.graph.take_if(|to| has_id_for_secret(&to.identity));
        let state = given.state.take_if(|at| match at {
            StateLocation::Blob { access: BlobAccessSettings::Identity(identity), .. } => {
                has_id_for_secret(identity)
            }
            _ => false,
        });
        let of_graph = match &raw.entra_client_id {
            Some(id) if !id.is_empty() => "ENTRA_CLIENT_SECRET",
            _ => "AZURE_CLIENT_SECRET",
        };
        let own = (ingestion.is_some() || state.is_some()).then_some("AZURE_CLIENT_SECRET");
        let of_graph = graph.map(|_| of_graph).filter(|of_graph| own != Some(of_graph));
        faults.extend(own.into_iter().chain(of_graph).map(id_for_secret));
        given.faults = faults;
        given
    }
}

impl Given {
    /// The sources that read Microsoft Graph.
    pub(super) fn graph_sources(&self) -> impl Iterator<Item = &'static str> {
        let of_graph = |source: &&SourceName| **source != SourceName::CloudIntegrated;
        self.sources.iter().filter(of_graph).map(|source| source.as_str())
    }
}

/// Whether the secret looks like the *id* of one, which stands beside it in the portal.
fn has_id_for_secret(identity: &AzureIdentity) -> bool {
    match &identity.credential {
        CredentialSettings::ClientSecret { secret: SecretSettings::Given(secret), .. } => {
            is_guid(secret.expose_secret())
        }
        _ => false,
    }
}

fn is_guid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

fn id_for_secret(setting: &'static str) -> SettingFault {
    SettingFault {
        setting,
        problem: "it is a GUID, as the id of a secret is, and not the secret".to_owned(),
        fix:
            "In the app registration, under \"Certificates & secrets\", copy the column Value and \
              not the column Secret ID. The value is shown once: make a new secret if it is gone."
                .to_owned(),
    }
}

pub(super) fn rungs(given: &Given, now: DateTime<Utc>) -> Vec<Rung> {
    let fault = |fault: &SettingFault| {
        Rung::ok(SETTINGS, fault.setting, fault.problem.as_str())
            .but(Verdict::Fail, fault.fix.as_str())
    };
    let mut rungs: Vec<Rung> = given.faults.iter().map(fault).collect();
    let warning = |warning: &String| {
        let fix = "set CHECKPOINT_URL to the URL of a blob container";
        Rung::ok(SETTINGS, "CHECKPOINT_URL", warning.as_str()).but(Verdict::Warn, fix)
    };
    rungs.extend(given.warnings.iter().map(warning));
    let unknown = |UnknownSetting { name, nearest }: &UnknownSetting| {
        let fix = format!("the nearest is {nearest}: correct the name, or unset it");
        Rung::ok(SETTINGS, name, "there is no such setting").but(Verdict::Warn, fix)
    };
    rungs.extend(given.unknown.iter().map(unknown));
    if rungs.is_empty() {
        rungs.push(Rung::ok(SETTINGS, "the environment and the flags", "all are valid"));
    }
    if given.schedules.is_empty() {
        rungs.push(Rung::skipped("schedule", WRONG_SETTINGS));
    }
    for (source, schedule) in &given.schedules {
        let ticks = std::iter::successors(schedule.after(now), |tick| schedule.after(*tick));
        let ticks: Vec<String> =
            ticks.take(3).map(|tick| tick.format("%F %T").to_string()).collect();
        let answer = format!("the next ticks are {} UTC", ticks.join(", "));
        let (rung, tried) = match source {
            SourceName::CloudIntegrated => ("schedule".to_owned(), format!("SCHEDULE {schedule}")),
            other => {
                let name = other.as_str();
                (format!("schedule/{name}"), format!("the schedule of {name}, {schedule}"))
            }
        };
        rungs.push(Rung::ok(rung, tried, answer));
    }
    rungs
}
