//! What settings are accepted, what is said of those that are not, and that no secret is shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use clap::{Args, Command, FromArgMatches};
use mimecast_sentinel::settings::{
    AzureCloud, BlobAccessSettings, CredentialSettings, DryRunSettings, FUNCTIONS_PORT, LogFormat,
    RawSettings, SecretSettings, Settings, SettingsFaults, StateLocation, StateSettings,
    is_loopback,
};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, HEALTH};
use secrecy::ExposeSecret;
use tracing::Level;

type Pairs<'a> = &'a [(&'a str, &'a str)];

const RULE: &str = "dcr-0123456789abcdef0123456789ABCDEF";
const CANARY: &str = "canary&with+signs=and%25";

/// Just what must be set on a laptop.
const LEAST: Pairs<'_> = &[
    ("MIMECAST_CLIENT_ID", "AbC123"),
    ("MIMECAST_CLIENT_SECRET", CANARY),
    ("LOGS_INGESTION_ENDPOINT", "https://dce-1a2b.westeurope-1.ingest.monitor.azure.com"),
    ("LOGS_INGESTION_RULE_ID", RULE),
];
const LOOPBACK: (&str, &str) = ("MIMECAST_BASE_URL", "http://127.0.0.1:8080");
const FUNCTIONS: Pairs<'_> = &[
    (FUNCTIONS_PORT, "40001"),
    ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token"),
    ("IDENTITY_HEADER", CANARY),
    ("CHECKPOINT_URL", "https://acc.blob.core.windows.net/state"),
];

/// The settings' flags, deaf to the environment in which the test runs.
fn command() -> Command {
    RawSettings::augment_args(Command::new("test")).mut_args(|arg| arg.env(None::<&str>))
}

/// An environment, and what the flags make of the same values.
struct Given {
    raw: RawSettings,
    env: BTreeMap<String, String>,
}

impl Given {
    /// The last value of a name counts.
    fn new(pairs: &[Pairs<'_>]) -> Self {
        let pairs = pairs.iter().flat_map(|pairs| pairs.iter());
        let env: BTreeMap<String, String> =
            pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let command = command();
        let flags = command.get_arguments().filter_map(|arg| {
            let name = arg.get_id().as_str().to_uppercase();
            Some(format!("--{}={}", arg.get_long()?, env.get(&name)?))
        });
        let flags: Vec<String> = std::iter::once("test".to_owned()).chain(flags).collect();
        let matches = command.try_get_matches_from(flags).unwrap();
        Self { raw: RawSettings::from_arg_matches(&matches).unwrap(), env }
    }

    fn env(&self) -> impl Fn(&str) -> Option<String> {
        |name| self.env.get(name).cloned()
    }

    fn pull(&self) -> Result<Settings, SettingsFaults> {
        Settings::resolve(&self.raw, &self.env(), today())
    }
}

fn today() -> NaiveDate {
    "2026-11-22".parse().unwrap()
}

fn pull(pairs: &[Pairs<'_>]) -> Result<Settings, SettingsFaults> {
    Given::new(pairs).pull()
}

/// The settings with one value changed.
fn with(name: &str, value: &str) -> Settings {
    pull(&[LEAST, &[(name, value)]]).unwrap_or_else(|faults| panic!("{name}={value}: {faults}"))
}

/// The names of the faulty settings, each fault being one line.
fn faulty(result: Result<impl std::fmt::Debug, SettingsFaults>) -> Vec<&'static str> {
    let faults = result.unwrap_err();
    assert_eq!(faults.to_string().lines().count(), faults.faults().len(), "{faults}");
    faults.faults().iter().map(|fault| fault.setting).collect()
}

#[test]
fn the_least_settings_give_the_documented_defaults() {
    let settings = pull(&[LEAST]).unwrap();
    assert_eq!(
        settings.mimecast.as_ref().unwrap().base_url.as_str(),
        "https://api.services.mimecast.com/"
    );
    assert_eq!(settings.mimecast.as_ref().unwrap().types, ["entities", "mailflow", "urlclick"]);
    assert_eq!(settings.mimecast.as_ref().unwrap().start_date.to_string(), "2026-09-23");
    assert_eq!(settings.mimecast.as_ref().unwrap().calls_per_15_minutes, 40);
    assert_eq!(settings.mimecast.as_ref().unwrap().limits.max_line_bytes, 2 * 1024 * 1024);
    assert_eq!(settings.mimecast.as_ref().unwrap().limits.max_file_bytes, 8 * 1024 * 1024 * 1024);
    assert_eq!(settings.quarantine_max_bytes, 20_000_000_000);
    assert_eq!(settings.give_up_after, TimeDelta::hours(24));
    assert_eq!(settings.spill_after, Some(TimeDelta::hours(72)));
    assert_eq!(settings.spill_max_bytes, 20_000_000_000);
    assert_eq!(settings.schedule.to_string(), "0 */15 * * * *");
    assert_eq!(settings.run_time_limit, Duration::from_secs(540));
    assert_eq!(settings.ingestion.stream, CLOUD_INTEGRATED.stream);
    assert_eq!(settings.ingestion.health_stream.as_deref(), Some(HEALTH.stream));
    assert_eq!(settings.listen, None);
    assert_eq!(settings.ingestion.rule_id, RULE);
    assert_eq!(settings.ingestion.gzip_level, 2);
    assert_eq!(settings.ingestion.cloud, AzureCloud::Public);
    let authority = &settings.ingestion.identity.authority_host;
    assert_eq!(authority.as_str(), "https://login.microsoftonline.com/");
    assert!(matches!(settings.ingestion.identity.credential, CredentialSettings::AzureCli));
    assert_eq!(settings.state.location.to_string(), "./mimecast-sentinel-state");
    assert!(settings.state.warnings.is_empty());
}

#[test]
fn good_values_are_taken() {
    for url in [
        "https://uk-api.services.mimecast.com/",
        "https://US-API.services.mimecast.com:443",
        "http://127.0.0.1:8080",
        "https://localhost:1",
        "http://[::1]:8080/",
    ] {
        let settings = with("MIMECAST_BASE_URL", url);
        assert_eq!(settings.mimecast.as_ref().unwrap().base_url.path(), "/");
    }
    for (types, expected) in [
        ("urlclick", vec!["urlclick"]),
        (" urlclick , Entities,urlclick,", vec!["entities", "urlclick"]),
    ] {
        assert_eq!(with("MIMECAST_TYPES", types).mimecast.as_ref().unwrap().types, expected);
    }
    assert_eq!(with("START_DATE", "2026-11-22").mimecast.as_ref().unwrap().start_date, today());
    assert_eq!(
        with("MIMECAST_CALLS_PER_15_MINUTES", "50").mimecast.as_ref().unwrap().calls_per_15_minutes,
        50
    );
    assert_eq!(
        with("MAX_LINE_BYTES", "1024").mimecast.as_ref().unwrap().limits.max_line_bytes,
        1024
    );
    assert_eq!(
        with("MAX_FILE_BYTES", "1073741824").mimecast.as_ref().unwrap().limits.max_file_bytes,
        1 << 30
    );
    assert_eq!(with("QUARANTINE_MAX_BYTES", "1000000").quarantine_max_bytes, 1_000_000);
    assert_eq!(with("GIVE_UP_AFTER_HOURS", "0").give_up_after, TimeDelta::zero());
    assert_eq!(with("SPILL_AFTER_HOURS", "168").spill_after, Some(TimeDelta::days(7)));
    assert_eq!(with("SPILL_AFTER_HOURS", "Never").spill_after, None);
    assert_eq!(with("SPILL_MAX_BYTES", "1000000").spill_max_bytes, 1_000_000);
    assert_eq!(with("HEALTH_STREAM", "Off").ingestion.health_stream, None);
    let listen = with("LISTEN", "[::1]:8080").listen.unwrap();
    assert_eq!((listen.port(), listen.ip().is_loopback()), (8080, true));
    assert_eq!(with("SCHEDULE", "0 */10 * * * *").schedule.to_string(), "0 */10 * * * *");
    assert_eq!(with("RUN_TIME_LIMIT_SECONDS", "60").run_time_limit, Duration::from_secs(60));
    assert_eq!(with("RUN_TIME_LIMIT_SECONDS", "86400").run_time_limit, Duration::from_secs(86_400));
    assert_eq!(with("GZIP_LEVEL", "9").ingestion.gzip_level, 9);
    assert_eq!(with("GZIP_LEVEL", "0").ingestion.gzip_level, 0);
    assert_eq!(with("LOGS_INGESTION_STREAM", "Custom-Mine").ingestion.stream, "Custom-Mine");
    let identity = with("AZURE_AUTHORITY_HOST", "https://login.example.net/").ingestion.identity;
    assert_eq!(identity.authority_host.as_str(), "https://login.example.net/");
}

/// A setting, a value of it that is not accepted, and what is said about it.
const BAD: &[(&str, &str, &str)] = &[
    ("MIMECAST_BASE_URL", "api.services.mimecast.com", "begins with https://"),
    ("MIMECAST_BASE_URL", "http://api.services.mimecast.com", "begins with http://"),
    ("MIMECAST_BASE_URL", "ftp://api.services.mimecast.com", "begins with https://"),
    ("MIMECAST_BASE_URL", "https://api.services.mimecast.com:8443", "a port"),
    ("MIMECAST_BASE_URL", "https://api.services.mimecast.com/v1", "a path"),
    ("MIMECAST_BASE_URL", "https://api.services.mimecast.com/?a=b", "after `?`"),
    ("MIMECAST_BASE_URL", "https://api.services.mimecast.com/#a", "after `?` or `#`"),
    ("MIMECAST_BASE_URL", "https://me@api.services.mimecast.com", "a user name"),
    ("MIMECAST_BASE_URL", "https://services.mimecast.com", "API 1.0"),
    ("MIMECAST_BASE_URL", "https://eu-api.mimecast.com", "API 1.0"),
    ("MIMECAST_BASE_URL", "https://api.mimecast.com", "API 1.0"),
    ("MIMECAST_BASE_URL", "https://je-api.mimecast-offshore.com", "API 1.0"),
    ("MIMECAST_BASE_URL", "https://evilservices.mimecast.com.example.net", "not under"),
    ("MIMECAST_BASE_URL", "https://evilmimecast.com", "not under"),
    ("MIMECAST_BASE_URL", "https://10.0.0.1", "an address"),
    ("MIMECAST_BASE_URL", "http://127.0.0.1:1/path", "a path"),
    ("MIMECAST_CLIENT_ID", "two words", "characters"),
    ("MIMECAST_CLIENT_SECRET", "@Microsoft.KeyVault(VaultName=v;SecretName=s)", "Key Vault"),
    ("MIMECAST_CLIENT_SECRET_FILE", "/run/secret", "so is MIMECAST_CLIENT_SECRET"),
    ("MIMECAST_CLIENT_SECRET_URI", "https://v.vault.azure.net/secrets/s", "Set one of them"),
    ("MIMECAST_TYPES", "entities,process", "\"process\""),
    ("MIMECAST_TYPES", " , ", "no event type"),
    ("START_DATE", "2026-11-23", "future"),
    ("START_DATE", "2026-1-5", "not a day"),
    ("START_DATE", "2026-02-30", "not a day"),
    ("START_DATE", "yesterday", "not a day"),
    ("MIMECAST_CALLS_PER_15_MINUTES", "0", "from 1 to 50"),
    ("MIMECAST_CALLS_PER_15_MINUTES", "51", "from 1 to 50"),
    ("MAX_LINE_BYTES", "1023", "from 1024 to 16777216"),
    ("MAX_LINE_BYTES", "2MiB", "number of bytes"),
    ("MAX_FILE_BYTES", "99999999999999999999999", "number of bytes"),
    ("QUARANTINE_MAX_BYTES", "0", "from 1000000 to 1000000000000000"),
    ("QUARANTINE_MAX_BYTES", "20GB", "number of bytes"),
    ("GIVE_UP_AFTER_HOURS", "169", "from 0 to 168"),
    ("GIVE_UP_AFTER_HOURS", "never", "number of hours"),
    ("SPILL_AFTER_HOURS", "169", "from 0 to 168, or `never`"),
    ("SPILL_AFTER_HOURS", "-1", "from 0 to 168, or `never`"),
    ("SPILL_MAX_BYTES", "20GB", "number of bytes"),
    ("SCHEDULE", "0 0 * * *", "five fields; SCHEDULE needs six"),
    ("SCHEDULE", "0 */7 * * * *", "240 seconds apart"),
    ("SCHEDULE", "0 2,55 0,23 */2 * *", "420 seconds apart"),
    ("SCHEDULE", "0 0 0 31 2 *", "never fires"),
    ("LISTEN", "8080", "an address and a port"),
    ("LISTEN", "localhost:8080", "an IP address"),
    ("LOG_LEVEL", "verbose", "WARNING"),
    ("LOG_FORMAT", "xml", "text or json"),
    ("RUN_TIME_LIMIT_SECONDS", "59", "from 60"),
    ("RUN_TIME_LIMIT_SECONDS", "86401", "to 86400"),
    ("RUN_TIME_LIMIT_SECONDS", "9m", "number of seconds"),
    ("MAX_ROWS_PER_RUN", "999", "from 1000 to 1000000000"),
    ("GZIP_LEVEL", "10", "from 0 to 9"),
    ("GZIP_LEVEL", "-1", "from 0 to 9"),
    ("LOGS_INGESTION_ENDPOINT", "https://ingest.monitor.azure.com", "not a logs ingestion"),
    ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.us", "AZURE_CLOUD"),
    ("LOGS_INGESTION_ENDPOINT", "http://a.ingest.monitor.azure.com", "http://"),
    ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.com/x", "a path"),
    ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.com:444", "a port"),
    ("LOGS_INGESTION_ENDPOINT", "https://x.ods.opinsights.azure.com", "not a logs ingestion"),
    ("LOGS_INGESTION_ENDPOINT", "http://127.0.0.1:9", "on this machine"),
    ("LOGS_INGESTION_RULE_ID", "dcr-0123", "immutable id"),
    ("LOGS_INGESTION_RULE_ID", "/subscriptions/x/dataCollectionRules/y", "immutable id"),
    ("LOGS_INGESTION_RULE_ID", "dcr-0123456789abcdef0123456789abcdeg", "immutable id"),
    ("LOGS_INGESTION_STREAM", "Cloud_Integrated", "not a custom stream"),
    ("LOGS_INGESTION_STREAM", "Custom-", "not a custom stream"),
    ("LOGS_INGESTION_STREAM", "Custom-a/b", "not a custom stream"),
    ("HEALTH_STREAM", "MimecastConnectorHealth_CL", "not a custom stream"),
    ("AZURE_CLOUD", "germany", "public, usgov or china"),
    ("AZURE_AUTHORITY_HOST", "http://login.microsoftonline.com", "not https"),
    ("AZURE_AUTHORITY_HOST", "login.microsoftonline.com", "https://"),
    ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/tenant", "a path"),
    ("CHECKPOINT_URL", "s3://bucket", "neither"),
    ("SOURCES", "cloud-integrated,entra", "not a source"),
    ("SOURCES", ",", "names no source"),
];

/// The same where the other sources are on.
const BAD_OF_GRAPH: &[(&str, &str, &str)] = &[
    ("ENTRA_RISK_SCHEDULE", "0 * * * * *", "60 seconds apart"),
    ("ENTRA_RISK_START_DATE", "2026-11-23", "in the future"),
    ("ENTRA_RISK_START_DATE", "yesterday", "not a day"),
    ("DIRECTORY_SCHEDULE", "hourly", "field"),
    ("DIRECTORY_ROUND_DAYS", "14", "not accepted"),
    ("DIRECTORY_ROUND_DAYS", "0", "not accepted"),
    ("GRAPH_BASE_URL", "https://graph.microsoft.us", "not Microsoft Graph of this cloud"),
    ("GRAPH_BASE_URL", "https://graph.example.net", "not Microsoft Graph of this cloud"),
    ("GRAPH_BASE_URL", "https://graph.microsoft.com/beta", "a path"),
    ("GRAPH_BASE_URL", "http://graph.microsoft.com", "begins with http://"),
];

/// What the sources beside Mimecast need: nothing of Mimecast's.
const GRAPH: Pairs<'_> = &[
    ("SOURCES", "directory,Entra-Risk"),
    ("MIMECAST_CLIENT_ID", ""),
    ("MIMECAST_CLIENT_SECRET", ""),
];

#[test]
fn a_source_needs_its_own_settings_and_no_others() {
    let settings = pull(&[LEAST, GRAPH]).unwrap();
    assert!(settings.mimecast.is_none());
    let names: Vec<_> = settings.schedules().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["entra-risk", "directory"]);
    let (risk, directory) = (settings.entra_risk.unwrap(), settings.directory.unwrap());
    assert_eq!(risk.schedule.to_string(), "0 */15 * * * *");
    assert_eq!(risk.start, None);
    assert_eq!(
        (directory.schedule.to_string(), directory.round.num_days()),
        ("0 0 * * * *".to_owned(), 7)
    );
    assert_eq!(directory.graph.base_url.as_str(), "https://graph.microsoft.com/");
    assert!(matches!(directory.graph.identity.credential, CredentialSettings::AzureCli));

    let all = pull(&[LEAST, &[("SOURCES", "cloud-integrated,entra-risk,directory")]]).unwrap();
    assert_eq!(all.schedules().len(), 3);
    let day = pull(&[LEAST, GRAPH, &[("ENTRA_RISK_START_DATE", "2026-10-01")]]).unwrap();
    assert_eq!(day.entra_risk.unwrap().start, NaiveDate::from_ymd_opt(2026, 10, 1));
}

#[test]
fn graph_is_asked_as_the_program_itself_or_as_an_application_of_another_tenant() {
    let own = pull(&[LEAST, GRAPH, FUNCTIONS]).unwrap().directory.unwrap().graph.identity;
    assert!(matches!(own.credential, CredentialSettings::ManagedIdentity { client_id: None, .. }));
    let other: Pairs<'_> = &[
        ("ENTRA_TENANT_ID", "contoso.onmicrosoft.com"),
        ("ENTRA_CLIENT_ID", "0f0f"),
        ("ENTRA_CLIENT_SECRET", CANARY),
    ];
    let settings = pull(&[LEAST, GRAPH, FUNCTIONS, other]).unwrap();
    let CredentialSettings::ClientSecret { tenant_id, client_id, secret } =
        &settings.directory.as_ref().unwrap().graph.identity.credential
    else {
        panic!("{settings:?}")
    };
    assert_eq!((tenant_id.as_str(), client_id.as_str()), ("contoso.onmicrosoft.com", "0f0f"));
    assert_eq!(given(secret), CANARY);
    assert!(!format!("{settings:?}").contains(CANARY));
    // Each by itself misses the others.
    for one in 0..3 {
        let faults = pull(&[LEAST, GRAPH, FUNCTIONS, &other[one..=one]]).unwrap_err();
        assert_eq!(faults.faults().len(), 2, "{faults}");
    }
}

#[test]
fn azure_in_china_has_no_risk_and_each_cloud_its_own_graph() {
    let china: Pairs<'_> = &[
        ("AZURE_CLOUD", "china"),
        ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.cn"),
    ];
    let faults = pull(&[LEAST, GRAPH, china]).unwrap_err();
    assert_eq!(faults.faults().len(), 1, "{faults}");
    assert_eq!(faults.faults()[0].setting, "SOURCES");
    let directory = pull(&[LEAST, GRAPH, china, &[("SOURCES", "directory")]]).unwrap();
    let base_url = directory.directory.unwrap().graph.base_url;
    assert_eq!(base_url.as_str(), "https://microsoftgraph.chinacloudapi.cn/");
}

#[test]
fn bad_values_are_refused_by_name_and_with_the_reason() {
    for (name, value, expected) in BAD.iter().copied() {
        let faults = pull(&[LEAST, &[(name, value)]]).expect_err(value);
        assert_eq!(faults.faults().len(), 1, "{name}={value}: {faults}");
        assert_eq!(faults.faults()[0].setting, name, "{value}");
        assert!(faults.to_string().contains(expected), "{name}={value}: {faults}");
        assert_eq!(faults.to_string().lines().count(), 1);
    }
    for (name, value, expected) in BAD_OF_GRAPH.iter().copied() {
        let faults = pull(&[LEAST, GRAPH, &[(name, value)]]).expect_err(value);
        assert_eq!(faults.faults().len(), 1, "{name}={value}: {faults}");
        assert_eq!(faults.faults()[0].setting, name, "{value}");
        assert!(faults.to_string().contains(expected), "{name}={value}: {faults}");
    }
}

/// Without the secret itself.
const ELSEWHERE: Pairs<'_> = &[("MIMECAST_CLIENT_SECRET", "")];

#[test]
fn a_key_vault_is_one_of_the_cloud_and_read_as_what_is_beside_the_app() {
    let uri = |uri: &'static str| ("MIMECAST_CLIENT_SECRET_URI", uri);
    for (pairs, url, scope) in [
        (vec![], "https://v-1.vault.azure.net/secrets/s", "https://vault.azure.net/.default"),
        (
            vec![],
            "https://v.vault.azure.net/secrets/s/0123abcd",
            "https://vault.azure.net/.default",
        ),
        (
            vec![
                ("AZURE_CLOUD", "usgov"),
                ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.us"),
            ],
            "https://v.vault.usgovcloudapi.net/secrets/s",
            "https://vault.usgovcloudapi.net/.default",
        ),
        (
            vec![
                ("AZURE_CLOUD", "china"),
                ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.cn"),
            ],
            "https://v.vault.azure.cn/secrets/s",
            "https://vault.azure.cn/.default",
        ),
        (vec![LOOPBACK], "http://127.0.0.1:9/secrets/s", "https://vault.azure.net/.default"),
    ] {
        let settings = pull(&[LEAST, ELSEWHERE, FUNCTIONS, &pairs, &[uri(url)]]).unwrap();
        let SecretSettings::Vault(secret) = &settings.mimecast.as_ref().unwrap().client_secret
        else {
            panic!("{url}")
        };
        assert_eq!((secret.url.as_str(), secret.cloud.vault_scope()), (url, scope));
        let credential = &secret.identity.credential;
        assert!(matches!(credential, CredentialSettings::ManagedIdentity { .. }), "{credential:?}");
    }
    for (url, problem) in [
        ("v.vault.azure.net/secrets/s", "begins with https://"),
        ("http://v.vault.azure.net/secrets/s", "begins with http://"),
        ("https://v.vault.azure.net/keys/s", "not that of a secret"),
        ("https://v.vault.azure.net/secrets/", "not that of a secret"),
        ("https://v.vault.azure.net/secrets/a/b/c", "not that of a secret"),
        ("https://v.vault.azure.net/secrets/a_b", "not that of a secret"),
        ("https://v.vault.azure.net/secrets/s?api-version=7.4", "after `?`"),
        ("https://me:CANARY@v.vault.azure.net/secrets/s", "a user name"),
        ("https://v.vault.azure.net:444/secrets/s", "a port"),
        ("https://v.vault.azure.net.example.net/secrets/s", "not a key vault of this cloud"),
        ("https://evil.example/secrets/s", "not a key vault"),
        ("https://a.b.vault.azure.net/secrets/s", "not a key vault"),
        ("https://vault.azure.net/secrets/s", "not a key vault"),
        ("https://v.vault.azure.cn/secrets/s", "set AZURE_CLOUD too"),
        ("https://10.0.0.1/secrets/s", "an address"),
        ("http://127.0.0.1:9/secrets/s", "on this machine"),
    ] {
        let faults = pull(&[LEAST, ELSEWHERE, &[uri(url)]]).expect_err(url);
        assert_eq!(
            faulty(Err::<(), _>(faults.clone())),
            ["MIMECAST_CLIENT_SECRET_URI"],
            "{faults}"
        );
        assert!(faults.to_string().contains(problem), "{url}: {faults}");
        assert!(!faults.to_string().contains("CANARY"), "{faults}");
    }
}

#[test]
fn who_reads_a_vault_is_never_the_application_whose_secret_is_there() {
    let application: Pairs<'_> = &[
        ("AZURE_TENANT_ID", "t"),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET_URI", "https://v.vault.azure.net/secrets/s"),
    ];
    let reader = |pairs: &[Pairs<'_>]| {
        let settings = pull(&[&[LEAST, application], pairs].concat()).unwrap();
        let CredentialSettings::ClientSecret { secret: SecretSettings::Vault(secret), .. } =
            settings.ingestion.identity.credential
        else {
            panic!("{:?}", settings.ingestion.identity);
        };
        secret.identity.credential
    };
    assert!(matches!(reader(&[]), CredentialSettings::AzureCli));
    let managed = reader(&[FUNCTIONS]);
    let CredentialSettings::ManagedIdentity { client_id: None, .. } = managed else {
        panic!("{managed:?}: AZURE_CLIENT_ID is the application's")
    };
    let file = ("AZURE_CLIENT_SECRET_FILE", "/run/secret");
    let faults = pull(&[LEAST, application, &[file]]);
    assert_eq!(faulty(faults), ["AZURE_CLIENT_SECRET_URI"]);
    let no_identity: Pairs<'_> = &[("IDENTITY_ENDPOINT", ""), ("IDENTITY_HEADER", "")];
    let faults = pull(&[LEAST, application, FUNCTIONS, no_identity]);
    assert_eq!(faulty(faults), ["IDENTITY_ENDPOINT"]);
}

#[test]
fn all_faults_are_reported_at_once() {
    let faults = faulty(pull(&[&[
        ("START_DATE", "tomorrow\nor later"),
        ("SCHEDULE", "@hourly"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("GZIP_LEVEL", "max"),
        ("AZURE_CLIENT_SECRET", CANARY),
        ("CHECKPOINT_URL", "https://acc.blob.core.windows.net"),
    ]]));
    assert_eq!(
        faults,
        [
            "MIMECAST_CLIENT_ID",
            "MIMECAST_CLIENT_SECRET",
            "START_DATE",
            "SCHEDULE",
            "LOG_LEVEL",
            "LOG_FORMAT",
            "LOGS_INGESTION_ENDPOINT",
            "LOGS_INGESTION_RULE_ID",
            "GZIP_LEVEL",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "CHECKPOINT_URL",
        ]
    );
}

#[test]
fn a_fault_is_reported_once_and_causes_no_others() {
    // Both the rule and the blobs need the tenant.
    let blob = ("CHECKPOINT_URL", "https://acc.blob.core.windows.net/state");
    let secret = ("AZURE_CLIENT_SECRET", CANARY);
    let result = pull(&[LEAST, &[blob, secret, ("AZURE_CLIENT_ID", "app")]]);
    assert_eq!(faulty(result), ["AZURE_TENANT_ID"]);
    // Whether the endpoint and the limit are right cannot be said.
    let result = pull(&[
        LEAST,
        &[
            ("MIMECAST_BASE_URL", "127.0.0.1:8080"),
            ("LOGS_INGESTION_ENDPOINT", "http://127.0.0.1:9"),
            ("RUN_TIME_LIMIT_SECONDS", "5"),
        ],
    ]);
    assert_eq!(faulty(result), ["MIMECAST_BASE_URL"]);
    let endpoint = ("LOGS_INGESTION_ENDPOINT", "https://a.ingest.monitor.azure.us");
    assert_eq!(faulty(pull(&[LEAST, &[endpoint, ("AZURE_CLOUD", "gov")]])), ["AZURE_CLOUD"]);
}

#[test]
fn an_empty_value_is_unset_everywhere() {
    let names: Vec<String> =
        command().get_arguments().map(|arg| arg.get_id().as_str().to_uppercase()).collect();
    let secrets = ["AZURE_CLIENT_SECRET", "IDENTITY_ENDPOINT", "IDENTITY_HEADER", FUNCTIONS_PORT];
    for blank in ["", "  ", "\n"] {
        let blanks: Vec<(&str, &str)> =
            names.iter().map(String::as_str).chain(secrets).map(|name| (name, blank)).collect();
        let settings = pull(&[&blanks, LEAST]).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{:?}", pull(&[LEAST]).unwrap()));
        assert_eq!(faulty(pull(&[&blanks])), faulty(pull(&[])));
    }
}

#[test]
fn values_lose_the_blanks_that_copying_adds() {
    let settings = with("MIMECAST_CLIENT_SECRET", &format!(" {CANARY}\n"));
    assert_eq!(given(&settings.mimecast.as_ref().unwrap().client_secret), CANARY);
    assert_eq!(with("MIMECAST_CLIENT_ID", " id ").mimecast.as_ref().unwrap().client_id, "id");
}

#[test]
fn on_loopback_the_endpoint_and_a_short_limit_are_taken_too() {
    for endpoint in ["http://127.0.0.1:9", "https://localhost:9", "http://[::1]:9/"] {
        let endpoint = ("LOGS_INGESTION_ENDPOINT", endpoint);
        let limit = ("RUN_TIME_LIMIT_SECONDS", "1");
        let settings = pull(&[LEAST, &[LOOPBACK, endpoint, limit]]).unwrap();
        assert!(is_loopback(&settings.ingestion.endpoint));
        assert_eq!(settings.run_time_limit, Duration::from_secs(1));
    }
    let limit = ("RUN_TIME_LIMIT_SECONDS", "0");
    assert_eq!(faulty(pull(&[LEAST, &[LOOPBACK, limit]])), ["RUN_TIME_LIMIT_SECONDS"]);
}

#[test]
fn each_cloud_has_its_own_names() {
    let cases = [
        ("Public", "azure.com", "https://login.microsoftonline.com/"),
        ("usgov", "azure.us", "https://login.microsoftonline.us/"),
        ("china", "azure.cn", "https://login.chinacloudapi.cn/"),
    ];
    for (cloud, domain, authority) in cases {
        let endpoint = format!("https://a.b-1.ingest.monitor.{domain}");
        let pairs = [("AZURE_CLOUD", cloud), ("LOGS_INGESTION_ENDPOINT", endpoint.as_str())];
        let settings = pull(&[LEAST, &pairs]).unwrap();
        let scope = format!("https://monitor.{domain}/.default");
        assert_eq!(settings.ingestion.cloud.scope(), scope);
        assert_eq!(settings.ingestion.identity.authority_host.as_str(), authority);
    }
}

/// A secret that is in the environment.
fn given(secret: &SecretSettings) -> &str {
    let SecretSettings::Given(secret) = secret else { panic!("{secret:?}") };
    secret.expose_secret()
}

/// The credentials for the rule and for a blob container, in short.
fn credentials(pairs: Pairs<'_>) -> Result<(String, String), SettingsFaults> {
    let short = |credential: &CredentialSettings| match credential {
        CredentialSettings::ClientSecret { tenant_id, client_id, secret } => {
            assert_eq!(given(secret), CANARY);
            format!("secret of {client_id} in {tenant_id}")
        }
        CredentialSettings::WorkloadIdentity { tenant_id, client_id, token_file } => {
            format!("{} for {client_id} in {tenant_id}", token_file.display())
        }
        CredentialSettings::ManagedIdentity { endpoint, header, client_id } => {
            assert_eq!(endpoint.as_str(), "http://127.0.0.1:1/token");
            assert_eq!(header.expose_secret(), CANARY);
            format!("managed {client_id:?}")
        }
        CredentialSettings::AzureCli => "az".to_owned(),
    };
    let blob = ("CHECKPOINT_URL", "https://acc.blob.core.windows.net/state");
    let settings = pull(&[LEAST, &[blob], pairs])?;
    let StateLocation::Blob { access: BlobAccessSettings::Identity(blobs), .. } =
        settings.state.location
    else {
        panic!("{:?}", settings.state);
    };
    Ok((short(&settings.ingestion.identity.credential), short(&blobs.credential)))
}

#[test]
fn the_first_credential_that_fits_is_used() {
    const TENANT: (&str, &str) = ("AZURE_TENANT_ID", "contoso.onmicrosoft.com");
    const CLIENT: (&str, &str) = ("AZURE_CLIENT_ID", "app");
    const SECRET: (&str, &str) = ("AZURE_CLIENT_SECRET", CANARY);
    const FILE: (&str, &str) = ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token");
    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", CANARY);
    let secret = "secret of app in contoso.onmicrosoft.com";
    let file = "/var/run/token for app in contoso.onmicrosoft.com";
    let cases: &[(Pairs<'_>, &str, &str)] = &[
        (&[], "az", "az"),
        (&[TENANT], "az", "az"),
        (&[ENDPOINT, HEADER], "managed None", "managed None"),
        (&[ENDPOINT, HEADER, CLIENT], "managed Some(\"app\")", "managed Some(\"app\")"),
        (&[TENANT, CLIENT, FILE], file, file),
        (&[TENANT, CLIENT, FILE, ENDPOINT, HEADER], file, file),
        (&[TENANT, CLIENT, SECRET], secret, secret),
        (&[TENANT, CLIENT, SECRET, FILE], secret, secret),
        // The client id is that of the secret, not of a user-assigned identity.
        (&[TENANT, CLIENT, SECRET, ENDPOINT, HEADER], secret, "managed None"),
    ];
    for (pairs, rule, blobs) in cases {
        let (got_rule, got_blobs) = credentials(pairs).unwrap();
        assert_eq!((got_rule.as_str(), got_blobs.as_str()), (*rule, *blobs), "{pairs:?}");
    }
    let incomplete: &[(Pairs<'_>, &[&str])] = &[
        (&[SECRET], &["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]),
        (&[SECRET, CLIENT], &["AZURE_TENANT_ID"]),
        (&[FILE, TENANT], &["AZURE_CLIENT_ID"]),
        (&[CLIENT, TENANT], &["AZURE_CLIENT_ID"]),
        (&[ENDPOINT], &["IDENTITY_HEADER"]),
        (&[TENANT, CLIENT, SECRET, ENDPOINT], &["IDENTITY_HEADER"]),
        (&[ENDPOINT, HEADER, ("AZURE_CLIENT_ID", "a&b")], &["AZURE_CLIENT_ID"]),
        (&[("IDENTITY_ENDPOINT", "localhost/token"), HEADER], &["IDENTITY_ENDPOINT"]),
        (&[("IDENTITY_ENDPOINT", "ftp://localhost"), HEADER], &["IDENTITY_ENDPOINT"]),
        (&[("IDENTITY_ENDPOINT", "http://me:pass@localhost"), HEADER], &["IDENTITY_ENDPOINT"]),
        (&[("IDENTITY_ENDPOINT", "x")], &["IDENTITY_ENDPOINT", "IDENTITY_HEADER"]),
        (
            &[TENANT, CLIENT, ("AZURE_CLIENT_SECRET", "@Microsoft.KeyVault(x)")],
            &["AZURE_CLIENT_SECRET"],
        ),
    ];
    for (pairs, names) in incomplete {
        assert_eq!(&faulty(credentials(pairs)), names, "{pairs:?}");
    }
}

#[test]
fn a_proxy_that_would_not_be_used_is_a_fault_that_names_its_variable() {
    for proxy in [
        "http://proxy.corp.example:8080",
        "https://10.0.0.1",
        "proxy:8080",
        "http://user:p%40ss@[fd00::1]:3128/",
        "http://user:p@ss word@proxy:8080",
    ] {
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            with(name, proxy);
        }
    }
    let unreadable = "it is not the address of a proxy";
    for (proxy, problem) in [
        ("socks5://proxy:1080", "it names a SOCKS proxy"),
        ("socks5h://me:CANARY@proxy:1080", "it names a SOCKS proxy"),
        ("socks4://proxy", "it names a SOCKS proxy"),
        ("ftp://proxy:21", unreadable),
        ("http://proxy:8080 http://other", unreadable),
        ("://", unreadable),
        ("proxy/proxy.pac", unreadable),
        ("http://proxy:80800", unreadable),
        ("http://me:CANARY@proxy:port", unreadable),
        ("http://wpad.corp.example/wpad.dat", unreadable),
    ] {
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            let Err(faults) = pull(&[LEAST, &[(name, proxy)]]) else { panic!("{name}={proxy}") };
            let [fault] = faults.faults() else { panic!("{name}={proxy}: {faults}") };
            assert_eq!(fault.setting, name, "{proxy}");
            assert!(fault.problem.starts_with(problem), "{name}={proxy}: {faults}");
            assert!(!faults.to_string().contains("CAN"), "{faults}");
        }
        // Both kinds of address would use it.
        assert_eq!(faulty(pull(&[LEAST, &[("ALL_PROXY", proxy)]])), ["ALL_PROXY"]);
    }
    // What is not used is not looked at: the first that is set counts, and an empty one is unset.
    let https = [("HTTPS_PROXY", ""), ("https_proxy", "http://p"), ("HTTP_PROXY", "http://p")];
    pull(&[LEAST, &https, &[("all_proxy", "socks5://p")]]).unwrap();
    pull(&[LEAST, &[("HTTPS_PROXY", "p"), ("https_proxy", "socks5://p")]]).unwrap();
    assert_eq!(
        faulty(pull(&[LEAST, &[("HTTPS_PROXY", "p"), ("all_proxy", "socks5://p")]])),
        ["all_proxy"]
    );
}

#[test]
fn state_in_a_folder_needs_no_proxy() {
    let state = |url: &str| {
        let given = Given::new(&[&[("CHECKPOINT_URL", url), ("HTTPS_PROXY", "socks5://p")]]);
        StateSettings::resolve(&given.raw, &given.env())
    };
    state("folder").unwrap();
    let container = state("https://acc.blob.core.windows.net/state?sig=s").unwrap_err();
    assert_eq!(container.faults()[0].setting, "HTTPS_PROXY");
}

fn location(url: &str) -> Result<StateLocation, SettingsFaults> {
    let given = Given::new(&[&[("CHECKPOINT_URL", url)]]);
    StateSettings::resolve(&given.raw, &given.env()).map(|state| state.location)
}

#[test]
fn state_is_in_a_folder_or_a_container() {
    for (given, expected) in [
        ("", "./mimecast-sentinel-state"),
        ("state", "state"),
        ("/var/lib/my state?", "/var/lib/my state?"),
        ("file:///var/lib/my%20state", "/var/lib/my state"),
    ] {
        let StateLocation::Folder(path) = location(given).unwrap() else { panic!("{given}") };
        assert_eq!(path, Path::new(expected));
    }
    let sas = "sv=2025-11-05&sp=rwdl&sig=a%2Bb%2Fc%3D";
    for (container, sas) in [
        ("https://acc.blob.core.windows.net/state", None),
        ("https://acc.blob.core.windows.net/state", Some(sas)),
        ("https://acc.z01.blob.storage.azure.net/state", Some(sas)),
        ("https://acc.blob.core.usgovcloudapi.net/st-ate", None),
        ("https://acc.blob.core.chinacloudapi.cn/123", None),
        ("http://127.0.0.1:10000/devstoreaccount1/state", Some(sas)),
        ("https://127.0.0.1:10443/devstoreaccount1/state", None),
    ] {
        let url = match sas {
            Some(sas) => format!("{container}?{sas}"),
            None => format!("{container}/"),
        };
        let StateLocation::Blob { container: got, access } = location(&url).unwrap() else {
            panic!("{url}")
        };
        assert_eq!(got.as_str(), container);
        match (access, sas) {
            (BlobAccessSettings::Sas(got), Some(sas)) => assert_eq!(got.expose_secret(), sas),
            (BlobAccessSettings::Identity(_), None) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn other_places_for_state_are_refused_without_showing_the_signature() {
    for (url, expected) in [
        ("http://acc.blob.core.windows.net/state?sig=SIGN", "http://"),
        ("https://acc.blob.core.windows.net/?sig=SIGN", "one container"),
        ("https://acc.blob.core.windows.net/state/folder?sig=SIGN", "one container"),
        ("https://acc.blob.core.windows.net/State?sig=SIGN", "one container"),
        ("https://acc.blob.core.windows.net:444/state?sig=SIGN", "its host"),
        ("https://acc.file.core.windows.net/state?sig=SIGN", "its host"),
        ("https://blob.core.windows.net.example.com/state?sig=SIGN", "its host"),
        ("https://me:SIGN@acc.blob.core.windows.net/state", "a user name"),
        ("https://acc.blob.core.windows.net/state#sig=SIGN", "a user name"),
        ("https://acc.blob.core.windows.net/state?token=SIGN", "not a SAS"),
        ("acc.blob.core.windows.net/SIGN", "without its whole beginning"),
        ("https:/acc.example.com/state?SIGN", "without its whole beginning"),
        ("https:/acc.example.com/state?sv=1&SIGN", "it has an `=`"),
        ("acc.blob.core.windows.net/state?sig=SIGN", "it has an `=`"),
        ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SIGN==", "it has an `=`"),
        ("BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=SIGN", "not a URL"),
        ("SIGN==", "it has an `=`"),
        ("http://127.0.0.1:10000/state?sig=SIGN", "one container"),
        ("http://127.0.0.1:10000/devstoreaccount1/state", "no SAS"),
        ("https://[/state?sig=SIGN", "not a URL"),
        ("s3://bucket/state?sig=SIGN", "neither"),
        ("file://host/state", "no folder"),
    ] {
        let faults = location(url).unwrap_err();
        assert!(faults.to_string().contains(expected), "{url}: {faults}");
        assert!(!format!("{faults} {faults:?}").contains("SIGN"), "{url}: {faults}");
    }
}

#[test]
fn a_folder_with_an_equals_sign_is_written_as_a_url() {
    let folder = location("file:///state/day=1").unwrap();
    assert_eq!(folder.to_string(), "/state/day=1");
}

#[test]
fn a_sas_is_refused_on_the_command_line() {
    let url = "https://acc.blob.core.windows.net/state?sig=SIGN";
    let given = Given::new(&[&[("CHECKPOINT_URL", url)]]);
    let faults = StateSettings::resolve(&given.raw, &|_| None).unwrap_err();
    assert!(faults.to_string().contains("command line"), "{faults}");
    let given = Given::new(&[&[("CHECKPOINT_URL", "https://acc.blob.core.windows.net/state")]]);
    StateSettings::resolve(&given.raw, &|_| None).unwrap();
}

#[test]
fn under_functions_state_must_outlive_the_instance() {
    assert!(pull(&[LEAST, FUNCTIONS]).unwrap().state.warnings.is_empty());
    let missing = pull(&[LEAST, FUNCTIONS, &[("CHECKPOINT_URL", "")]]);
    assert_eq!(faulty(missing), ["CHECKPOINT_URL"]);
    let folder = pull(&[LEAST, FUNCTIONS, &[("CHECKPOINT_URL", "/home/state")]]).unwrap();
    assert!(folder.state.warnings[0].contains("/home/state"), "{:?}", folder.state);
    let no_identity = pull(&[LEAST, FUNCTIONS, &[("IDENTITY_ENDPOINT", "")]]);
    assert_eq!(faulty(no_identity), ["IDENTITY_ENDPOINT"]);
}

#[test]
fn under_functions_the_run_must_end_a_minute_before_the_host_kills_it() {
    const TIMEOUT: &str = "AzureFunctionsJobHost__functionTimeout";
    let root = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(root.path().join("host.json"), text).unwrap();
    let root_path = root.path().to_str().unwrap();
    let limit = |seconds: &str, pairs: Pairs<'_>| {
        let pairs: [Pairs<'_>; 4] =
            [LEAST, FUNCTIONS, &[("RUN_TIME_LIMIT_SECONDS", seconds)], pairs];
        pull(&pairs).map(|settings| settings.run_time_limit.as_secs()).map_err(|f| f.to_string())
    };
    // The host.json that is deployed gives ten minutes.
    assert_eq!(limit("", &[]), Ok(540));
    assert!(limit("541", &[]).unwrap_err().contains("at most 540"));
    // The one beside the binary counts more, if it can be read.
    let deployed: Pairs<'_> = &[("FUNCTIONS_APP_ROOT_PATH", root_path)];
    assert!(limit("541", deployed).unwrap_err().contains("at most 540"));
    write(r#"{"functionTimeout":"01:00:00"}"#);
    assert_eq!(limit("3540", deployed), Ok(3540));
    assert!(limit("3541", deployed).unwrap_err().contains("at most 3540"));
    write("not json");
    assert!(limit("541", deployed).unwrap_err().contains("at most 540"));
    // The app setting counts most.
    let setting = |value| [deployed[0], (TIMEOUT, value)];
    assert!(limit("", &setting("00:05:00")).unwrap_err().contains("at most 240"));
    assert!(limit("60", &setting("00:01:30")).unwrap_err().contains("Raise functionTimeout"));
    assert_eq!(limit("86400", &setting("-1")), Ok(86_400));
    // Elsewhere nobody kills the run.
    assert_eq!(with("RUN_TIME_LIMIT_SECONDS", "3600").run_time_limit.as_secs(), 3600);
}

#[test]
fn the_deployed_files_start_the_handler_on_the_schedule() {
    let read = |name: &str| -> serde_json::Value {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let host = read("host.json");
    assert_eq!(host["version"], "2.0");
    let handler = &host["customHandler"];
    assert_eq!(handler["description"]["defaultExecutablePath"], "mimecast-sentinel");
    assert_eq!(handler["description"]["arguments"], serde_json::json!(["serve"]));
    assert_eq!(handler["enableForwardingHttpRequest"], false);
    for (file, schedule) in [
        ("function.json", "%SCHEDULE%"),
        ("functions/EntraRisk/function.json", "%ENTRA_RISK_SCHEDULE%"),
        ("functions/Directory/function.json", "%DIRECTORY_SCHEDULE%"),
    ] {
        let timer = &read(file)["bindings"][0];
        assert_eq!(timer["type"], "timerTrigger");
        assert_eq!(timer["schedule"], schedule);
    }
}

#[test]
fn a_dry_run_needs_nothing_of_azure_and_state_nothing_of_mimecast() {
    let nonsense: Pairs<'_> = &[
        ("LOGS_INGESTION_ENDPOINT", "nonsense"),
        ("AZURE_CLIENT_SECRET", CANARY),
        ("CHECKPOINT_URL", "s3://bucket"),
        ("SCHEDULE", "nonsense"),
    ];
    let mimecast = &LEAST[..2];
    let given = Given::new(&[mimecast, nonsense]);
    let settings = DryRunSettings::resolve(&given.raw, &given.env(), today()).unwrap();
    assert_eq!(settings.mimecast.client_id, "AbC123");
    let given = Given::new(&[nonsense, &[("LOG_LEVEL", "loud")]]);
    let faults = DryRunSettings::resolve(&given.raw, &given.env(), today());
    assert_eq!(faulty(faults), ["MIMECAST_CLIENT_ID", "MIMECAST_CLIENT_SECRET", "LOG_LEVEL"]);

    // A folder needs no identity, and a SAS is one.
    for url in ["/tmp/state", "https://acc.blob.core.windows.net/state?sig=x"] {
        let given = Given::new(&[nonsense, &[("CHECKPOINT_URL", url)]]);
        StateSettings::resolve(&given.raw, &given.env()).unwrap();
    }
    let container = ("CHECKPOINT_URL", "https://acc.blob.core.windows.net/state");
    let given = Given::new(&[nonsense, &[container]]);
    let faults = StateSettings::resolve(&given.raw, &given.env());
    assert_eq!(faulty(faults), ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]);
}

#[test]
fn the_log_level_is_known_before_the_settings_are() {
    let cases = [
        ("debug", Level::DEBUG),
        ("Warning", Level::WARN),
        ("WARN", Level::WARN),
        ("Error", Level::ERROR),
        ("TRACE", Level::TRACE),
        (" info ", Level::INFO),
        ("", Level::INFO),
        ("loud", Level::INFO),
    ];
    for (text, level) in cases {
        assert_eq!(Given::new(&[&[("LOG_LEVEL", text)]]).raw.log_level(), level, "{text}");
    }
}

#[test]
fn the_log_format_is_known_before_the_settings_are() {
    let cases = [
        ("JSON", Some(LogFormat::Json)),
        (" Text ", Some(LogFormat::Text)),
        ("", None),
        ("xml", None),
    ];
    for (text, format) in cases {
        assert_eq!(Given::new(&[&[("LOG_FORMAT", text)]]).raw.log_format(), format, "{text}");
    }
}

#[test]
fn no_secret_is_ever_shown() {
    let sas = format!("https://acc.blob.core.windows.net/state?sv=1&sig={CANARY}");
    let secrets = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET", CANARY),
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token"),
        ("IDENTITY_HEADER", CANARY),
        ("CHECKPOINT_URL", sas.as_str()),
    ];
    let given = Given::new(&[LEAST, &secrets]);
    let settings = given.pull().unwrap();
    let state = StateSettings::resolve(&given.raw, &given.env()).unwrap();
    let dry_run = DryRunSettings::resolve(&given.raw, &given.env(), today()).unwrap();
    let shown = format!(
        "{:?} {settings:?} {settings:#?} {state:?} {} {dry_run:?}",
        given.raw, state.location
    );
    // And with everything else wrong.
    let wrong = [("START_DATE", "x"), ("SCHEDULE", "x"), ("AZURE_TENANT_ID", "")];
    let faults = pull(&[LEAST, &secrets, &wrong]).unwrap_err();
    for text in [shown, format!("{faults} {faults:?}")] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn every_setting_has_a_flag_of_its_name_but_secrets_have_none() {
    let command = RawSettings::augment_args(Command::new("test"));
    command.clone().debug_assert();
    for arg in command.get_arguments() {
        let name = arg.get_id().as_str();
        assert_eq!(arg.get_long().unwrap(), name.replace('_', "-"));
        assert_eq!(arg.get_env().unwrap(), name.to_uppercase().as_str());
        assert!(arg.is_hide_env_values_set(), "{name} would show its value in the help");
        assert!(arg.get_help().is_some(), "{name}");
        assert!(!["secret", "header"].iter().any(|word| name.ends_with(word)), "{name}");
    }
    assert_eq!(command.get_arguments().count(), 42);
}
