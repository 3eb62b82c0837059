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
    /// Where events come from.
    pub mimecast: MimecastSettings,
    /// Where rows go.
    pub ingestion: IngestionSettings,
    /// Where checkpoints and quarantine are kept.
    pub state: StateSettings,
    /// The bytes that quarantine may hold, those of all streams.
    pub quarantine_max_bytes: u64,
    /// When to pull.
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
    /// When `serve` pulls.
    pub schedule: Schedule,
    /// The streams that are pulled.
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
        let base_url = mimecast::base_url(raw, &mut reader);
        let on_loopback = mimecast::on_loopback(raw);
        let mimecast = mimecast::read(raw, base_url, today, &mut reader);
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
        mimecast::base_url(raw, &mut reader);
        let on_loopback = mimecast::on_loopback(raw);
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
        let schedule = run::schedule(raw, &mut reader);
        run::logs(raw, &mut reader);
        let state = state_settings(raw, &mut reader);
        if !state.as_ref().is_some_and(StateSettings::is_folder) {
            proxy::check(&mut reader);
        }
        let settings = || Some(Self { state: state?, schedule: schedule?, types: types? });
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
