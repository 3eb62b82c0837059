//! Environment variables and flags → settings that are valid.
//!
//! [`RawSettings`] is what was given. [`Settings`], [`DryRunSettings`], [`ReplaySettings`],
//! [`StatusSettings`] and [`StateSettings`] are what a command needs, and exist only if all of it is right. Otherwise
//! [`SettingsFaults`] report everything that is wrong at once. An empty value is unset, everywhere.

mod azure;
mod identity;
mod mimecast;
mod origin;
mod proxy;
mod raw;
mod reader;
mod run;
mod secret;
mod sources;
mod state;
mod unknown;

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};

pub use azure::{AzureCloud, IngestionSettings};
pub use identity::{AzureIdentity, CredentialSettings};
pub use mimecast::{EVENT_TYPES, FileLimits, MimecastSettings};
pub use origin::is_loopback;
pub use raw::RawSettings;
use reader::Reader;
pub use reader::{SettingFault, SettingsFaults};
pub use run::LogFormat;
pub use secret::{SecretSettings, VaultSecret};
pub use sources::{DirectorySettings, EntraRiskSettings, GraphSettings, SourceName, named_sources};
pub use state::{BlobAccessSettings, StateLocation};
pub use unknown::{PREFIXES, SECRETS, UnknownSetting, unknown_settings};

use crate::schedule::Schedule;

/// The environment variable in which the Functions host names the port to listen on. Where it is
/// set, this process is a custom handler.
pub const FUNCTIONS_PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";

/// Reads one environment variable of this process; an empty one is unset.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The names of the variables of this process that are set; an empty one is not.
pub fn process_env_names() -> impl Iterator<Item = String> {
    let set = std::env::vars_os().filter(|(_, value)| !value.to_string_lossy().trim().is_empty());
    set.map(|(name, _)| name.to_string_lossy().into_owned())
}

/// What a pull needs, and `serve` and `check`: everything.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Mimecast's events, if they are read.
    pub mimecast: Option<MimecastSettings>,
    /// Entra's risk, if it is read.
    pub entra_risk: Option<EntraRiskSettings>,
    /// The directory, if it is read.
    pub directory: Option<DirectorySettings>,
    /// Where rows go.
    pub ingestion: IngestionSettings,
    /// Where checkpoints and quarantine are kept.
    pub state: StateSettings,
    /// The bytes that quarantine may hold, those of all streams.
    pub quarantine_max_bytes: u64,
    /// When Mimecast's events are pulled.
    pub schedule: Schedule,
    /// Where the status page is shown outside of Azure Functions.
    pub listen: Option<SocketAddr>,
    /// After this time a run posts nothing new.
    pub run_time_limit: Duration,
    /// After so many rows a run ends.
    pub max_rows: u64,
    /// After this time what holds a stream up is passed.
    pub give_up_after: TimeDelta,
    /// When the destination has accepted nothing for this time, batch files are kept; never, if `None`.
    pub spill_after: Option<TimeDelta>,
    /// The bytes of the batch files that are kept then, those of all streams.
    pub spill_max_bytes: u64,
}

/// What a dry run needs: nothing of Azure.
#[derive(Clone, Debug)]
pub struct DryRunSettings {
    /// Where events come from.
    pub mimecast: MimecastSettings,
    /// After this time a run reads nothing new.
    pub run_time_limit: Duration,
    /// After so many rows a run ends.
    pub max_rows: u64,
}

/// What sending quarantine again needs: nothing of Mimecast but how its files are read.
#[derive(Clone, Debug)]
pub struct ReplaySettings {
    /// How much is read of a batch file.
    pub limits: FileLimits,
    /// Where rows go.
    pub ingestion: IngestionSettings,
    /// Where quarantine is kept.
    pub state: StateSettings,
    /// After this time nothing new is posted.
    pub run_time_limit: Duration,
    /// After so many rows a run ends.
    pub max_rows: u64,
}

/// What `status` needs.
#[derive(Clone, Debug)]
pub struct StatusSettings {
    /// Where run history, checkpoints and quarantine are kept.
    pub state: StateSettings,
    /// The sources that are on, and when each runs.
    pub sources: Vec<(SourceName, Schedule)>,
    /// The streams of Mimecast's events that are pulled.
    pub types: Vec<&'static str>,
}

/// What commands that look at checkpoints and quarantine need.
#[derive(Clone, Debug)]
pub struct StateSettings {
    /// Where they are kept.
    pub location: StateLocation,
    /// What is valid but probably a mistake; to be logged once.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Checks everything. `env` reads the environment, see [`process_env`]; `today` is in UTC.
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
        today: NaiveDate,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        let sources = sources::sources(raw, &mut reader);
        // If it is wrong, what most have is read all the same: all faults come at once.
        let on = sources.unwrap_or_else(|| vec![SourceName::CloudIntegrated]);
        let on_loopback = sources::on_loopback(raw);
        // A source that is off is a success without settings: `Some(None)`.
        let mimecast = match on.contains(&SourceName::CloudIntegrated) {
            true => {
                let base_url = mimecast::base_url(raw, &mut reader);
                mimecast::read(raw, base_url, today, &mut reader).map(Some)
            }
            false => Some(None),
        };
        let entra_risk = match on.contains(&SourceName::EntraRisk) {
            true => sources::entra_risk(raw, today, &mut reader).map(Some),
            false => Some(None),
        };
        let directory = match on.contains(&SourceName::Directory) {
            true => sources::directory(raw, &mut reader).map(Some),
            false => Some(None),
        };
        let schedule = run::schedule(raw, &mut reader);
        let listen = run::listen(raw, &mut reader);
        let run_time_limit = run::run_time_limit(raw, on_loopback, &mut reader);
        let max_rows = run::max_rows(raw, &mut reader);
        run::logs(raw, &mut reader);
        proxy::check(&mut reader);
        let ingestion = azure::read(raw, on_loopback, &mut reader);
        let state = state_settings(raw, &mut reader);
        let quarantine_max_bytes =
            state::most_bytes("QUARANTINE_MAX_BYTES", &raw.quarantine_max_bytes, &mut reader);
        let give_up_after = run::give_up_after(raw, &mut reader);
        let spill_after = run::spill_after(raw, &mut reader);
        let spill_max_bytes =
            state::most_bytes("SPILL_MAX_BYTES", &raw.spill_max_bytes, &mut reader);
        let settings = || {
            Some(Self {
                mimecast: mimecast?,
                entra_risk: entra_risk?,
                directory: directory?,
                ingestion: ingestion?,
                state: state?,
                quarantine_max_bytes: quarantine_max_bytes?,
                schedule: schedule?,
                listen: listen?,
                run_time_limit: run_time_limit?,
                max_rows: max_rows?,
                give_up_after: give_up_after?,
                spill_after: spill_after?,
                spill_max_bytes: spill_max_bytes?,
            })
        };
        reader.finish(settings())
    }
}

impl Settings {
    /// The sources that are on, and when each runs.
    pub fn schedules(&self) -> Vec<(SourceName, Schedule)> {
        let mimecast = self.mimecast.as_ref().map(|_| &self.schedule);
        let risk = self.entra_risk.as_ref().map(|of| &of.schedule);
        let directory = self.directory.as_ref().map(|of| &of.schedule);
        let all = SourceName::ALL.into_iter().zip([mimecast, risk, directory]);
        all.filter_map(|(source, schedule)| Some((source, schedule?.clone()))).collect()
    }
}

impl GraphSettings {
    /// Checks what reading Microsoft Graph needs; see [`Settings::resolve`].
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        let graph = sources::graph(raw, &mut reader);
        proxy::check(&mut reader);
        reader.finish(graph)
    }
}

impl DryRunSettings {
    /// Checks what a dry run needs; see [`Settings::resolve`].
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
        today: NaiveDate,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        let base_url = mimecast::base_url(raw, &mut reader);
        let on_loopback = mimecast::on_loopback(raw);
        let mimecast = mimecast::read(raw, base_url, today, &mut reader);
        let run_time_limit = run::run_time_limit(raw, on_loopback, &mut reader);
        let max_rows = run::max_rows(raw, &mut reader);
        run::logs(raw, &mut reader);
        proxy::check(&mut reader);
        let settings = || {
            Some(Self { mimecast: mimecast?, run_time_limit: run_time_limit?, max_rows: max_rows? })
        };
        reader.finish(settings())
    }
}

impl ReplaySettings {
    /// Checks what a replay needs; see [`Settings::resolve`].
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        let on_loopback = sources::on_loopback(raw);
        let limits = mimecast::limits(raw, &mut reader);
        let run_time_limit = run::run_time_limit(raw, on_loopback, &mut reader);
        let max_rows = run::max_rows(raw, &mut reader);
        run::logs(raw, &mut reader);
        proxy::check(&mut reader);
        let ingestion = azure::read(raw, on_loopback, &mut reader);
        let state = state_settings(raw, &mut reader);
        let settings = || {
            Some(Self {
                limits: limits?,
                ingestion: ingestion?,
                state: state?,
                run_time_limit: run_time_limit?,
                max_rows: max_rows?,
            })
        };
        reader.finish(settings())
    }
}

impl StatusSettings {
    /// Checks what `status` needs; see [`Settings::resolve`].
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        let types = mimecast::event_types(raw, &mut reader);
        let on = sources::sources(raw, &mut reader).unwrap_or_default();
        let sources: Option<Vec<_>> = on
            .into_iter()
            .map(|source| Some((source, sources::schedule(source, raw, &mut reader)?)))
            .collect();
        run::logs(raw, &mut reader);
        let state = state_settings(raw, &mut reader);
        if !state.as_ref().is_some_and(StateSettings::is_folder) {
            proxy::check(&mut reader);
        }
        let settings = || Some(Self { state: state?, sources: sources?, types: types? });
        reader.finish(settings())
    }
}

impl StateSettings {
    fn is_folder(&self) -> bool {
        matches!(self.location, StateLocation::Folder(_))
    }

    /// Checks what commands on checkpoints and quarantine need; see [`Settings::resolve`].
    pub fn resolve(
        raw: &RawSettings,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsFaults> {
        let mut reader = Reader::new(env);
        run::logs(raw, &mut reader);
        let settings = state_settings(raw, &mut reader);
        if !settings.as_ref().is_some_and(Self::is_folder) {
            proxy::check(&mut reader);
        }
        reader.finish(settings)
    }
}

fn state_settings(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<StateSettings> {
    let location = state::read(raw, reader)?;
    let warnings = state::warning(&location, reader).into_iter().collect();
    Some(StateSettings { location, warnings })
}
