//! Settings are taken only if they are what the program relies on; faults say what is wrong, each
//! in one line, and never a secret.
//!
//! The input is an environment: `NAME=value` on each line, over values that are good.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::NaiveDate;
use libfuzzer_sys::fuzz_target;
use mimecast_sentinel::settings::{
    AzureCloud, BlobAccessSettings, CredentialSettings, DryRunSettings, FUNCTIONS_PORT,
    RawSettings, ReplaySettings, SecretSettings, Settings, SettingsFaults, StateLocation,
    StateSettings, is_loopback,
};
use secrecy::ExposeSecret;
use url::Url;

/// Is in each secret, and replaces `@@` in a value.
const CANARY: &str = "c4n4ry";
const NAMES: [&str; 46] = [
    "SOURCES",
    "ENTRA_RISK_SCHEDULE",
    "ENTRA_RISK_START_DATE",
    "DIRECTORY_SCHEDULE",
    "DIRECTORY_ROUND_DAYS",
    "ENTRA_TENANT_ID",
    "ENTRA_CLIENT_ID",
    "ENTRA_CLIENT_SECRET_FILE",
    "ENTRA_CLIENT_SECRET_URI",
    "GRAPH_BASE_URL",
    "MIMECAST_BASE_URL",
    "MIMECAST_CLIENT_ID",
    "MIMECAST_CLIENT_SECRET_FILE",
    "MIMECAST_CLIENT_SECRET_URI",
    "MIMECAST_TYPES",
    "MIMECAST_CALLS_PER_15_MINUTES",
    "START_DATE",
    "MAX_LINE_BYTES",
    "MAX_FILE_BYTES",
    "SCHEDULE",
    "RUN_TIME_LIMIT_SECONDS",
    "LISTEN",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "CHECKPOINT_URL",
    "LOGS_INGESTION_ENDPOINT",
    "LOGS_INGESTION_RULE_ID",
    "LOGS_INGESTION_STREAM",
    "HEALTH_STREAM",
    "GZIP_LEVEL",
    "AZURE_CLOUD",
    "AZURE_AUTHORITY_HOST",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET_FILE",
    "AZURE_CLIENT_SECRET_URI",
    "AZURE_FEDERATED_TOKEN_FILE",
    // From the environment alone.
    "MIMECAST_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "ENTRA_CLIENT_SECRET",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    FUNCTIONS_PORT,
    "AzureFunctionsJobHost__functionTimeout",
    "UNKNOWN",
    "PATH",
];
const GOOD: [(&str, &str); 5] = [
    ("MIMECAST_CLIENT_ID", "AbC123"),
    ("MIMECAST_CLIENT_SECRET", CANARY),
    ("LOGS_INGESTION_ENDPOINT", "https://dce-1a2b.westeurope-1.ingest.monitor.azure.com"),
    ("LOGS_INGESTION_RULE_ID", "dcr-0123456789abcdef0123456789ABCDEF"),
    ("IDENTITY_HEADER", CANARY),
];
const URLS: [&str; 8] =
    ["ENTRA_CLIENT_SECRET_URI", "GRAPH_BASE_URL", "MIMECAST_BASE_URL", "CHECKPOINT_URL", "LOGS_INGESTION_ENDPOINT", "AZURE_AUTHORITY_HOST", "MIMECAST_CLIENT_SECRET_URI", "AZURE_CLIENT_SECRET_URI"];

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.contains(CANARY) || text.contains('\0') {
        return;
    }
    let given = Given::new(text);
    let (raw, env) = (given.raw(), given.env());
    let today = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
    let all = Settings::resolve(&raw, &env, today);
    let dry = DryRunSettings::resolve(&raw, &env, today);
    let replay = ReplaySettings::resolve(&raw, &env);
    let state = StateSettings::resolve(&raw, &env);
    assert_eq!(format!("{all:?}"), format!("{:?}", Settings::resolve(&raw, &env, today)));

    let shown = [
        given.check_shown(&all, &all),
        given.check_shown(&dry, &all),
        given.check_shown(&replay, &all),
        given.check_shown(&state, &all),
    ];
    if given.hides_canaries() {
        for shown in shown {
            assert!(!shown.contains(CANARY), "{shown}");
        }
    }
    if let Ok(settings) = all {
        assert!(replay.is_ok() && state.is_ok());
        assert!(dry.is_ok() || settings.mimecast.is_none());
        check(&settings, today);
        let secret = settings.mimecast.as_ref().map(|mimecast| &mimecast.client_secret);
        if let Some(SecretSettings::Given(secret)) = secret {
            assert_eq!(secret.expose_secret(), given.0["MIMECAST_CLIENT_SECRET"].trim());
        }
    }
});

/// The environment.
struct Given(BTreeMap<String, String>);

impl Given {
    fn new(text: &str) -> Self {
        let good = GOOD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut env: BTreeMap<String, String> = good.collect();
        for line in text.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            let value = value.replace("\\n", "\n").replace("@@", CANARY);
            if NAMES.contains(&name) {
                env.insert(name.to_owned(), value);
            }
        }
        Self(env)
    }

    fn env(&self) -> impl Fn(&str) -> Option<String> {
        |name| self.0.get(name).cloned()
    }

    /// The flags take the same values, as they do from the environment.
    fn raw(&self) -> RawSettings {
        let of = |name: &str| self.0.get(name).cloned();
        RawSettings {
            sources: of("SOURCES"),
            entra_risk_schedule: of("ENTRA_RISK_SCHEDULE"),
            entra_risk_start_date: of("ENTRA_RISK_START_DATE"),
            directory_schedule: of("DIRECTORY_SCHEDULE"),
            directory_round_days: of("DIRECTORY_ROUND_DAYS"),
            entra_tenant_id: of("ENTRA_TENANT_ID"),
            entra_client_id: of("ENTRA_CLIENT_ID"),
            entra_client_secret_file: of("ENTRA_CLIENT_SECRET_FILE"),
            entra_client_secret_uri: of("ENTRA_CLIENT_SECRET_URI"),
            graph_base_url: of("GRAPH_BASE_URL"),
            mimecast_base_url: of("MIMECAST_BASE_URL"),
            mimecast_client_id: of("MIMECAST_CLIENT_ID"),
            mimecast_client_secret_file: of("MIMECAST_CLIENT_SECRET_FILE"),
            mimecast_client_secret_uri: of("MIMECAST_CLIENT_SECRET_URI"),
            mimecast_types: of("MIMECAST_TYPES"),
            mimecast_calls_per_15_minutes: of("MIMECAST_CALLS_PER_15_MINUTES"),
            start_date: of("START_DATE"),
            max_line_bytes: of("MAX_LINE_BYTES"),
            max_file_bytes: of("MAX_FILE_BYTES"),
            schedule: of("SCHEDULE"),
            run_time_limit_seconds: of("RUN_TIME_LIMIT_SECONDS"),
            max_rows_per_run: of("MAX_ROWS_PER_RUN"),
            quarantine_max_bytes: of("QUARANTINE_MAX_BYTES"),
            give_up_after_hours: of("GIVE_UP_AFTER_HOURS"),
            spill_after_hours: of("SPILL_AFTER_HOURS"),
            spill_max_bytes: of("SPILL_MAX_BYTES"),
            listen: of("LISTEN"),
            log_level: of("LOG_LEVEL"),
            log_format: of("LOG_FORMAT"),
            checkpoint_url: of("CHECKPOINT_URL"),
            logs_ingestion_endpoint: of("LOGS_INGESTION_ENDPOINT"),
            logs_ingestion_rule_id: of("LOGS_INGESTION_RULE_ID"),
            logs_ingestion_stream: of("LOGS_INGESTION_STREAM"),
            health_stream: of("HEALTH_STREAM"),
            gzip_level: of("GZIP_LEVEL"),
            azure_cloud: of("AZURE_CLOUD"),
            azure_authority_host: of("AZURE_AUTHORITY_HOST"),
            azure_tenant_id: of("AZURE_TENANT_ID"),
            azure_client_id: of("AZURE_CLIENT_ID"),
            azure_client_secret_file: of("AZURE_CLIENT_SECRET_FILE"),
            azure_client_secret_uri: of("AZURE_CLIENT_SECRET_URI"),
            azure_federated_token_file: of("AZURE_FEDERATED_TOKEN_FILE"),
        }
    }

    /// Whether canaries are only where a secret may be: in secrets, and in a URL in its password, or
    /// behind its `?` or `#`.
    fn hides_canaries(&self) -> bool {
        // Without `://` it may be a folder's path.
        let hidden = |name: &str, value: &str| match Url::parse(value.trim()) {
            Ok(mut url) if URLS.contains(&name) && value.contains("://") => {
                url.set_query(None);
                url.set_fragment(None);
                let cleared = url.set_password(None).is_ok() && url.set_username("").is_ok();
                cleared && !url.as_str().contains(CANARY)
            }
            _ => false,
        };
        self.0.iter().all(|(name, value)| {
            let secret = name.ends_with("_SECRET") || name == "IDENTITY_HEADER";
            secret || !value.contains(CANARY) || hidden(name, value)
        })
    }

    /// What is said of a result; faults are also among those of all settings.
    fn check_shown<T: std::fmt::Debug>(
        &self,
        result: &Result<T, SettingsFaults>,
        all: &Result<Settings, SettingsFaults>,
    ) -> String {
        let Err(faults) = result else { return format!("{result:?}") };
        assert!(!faults.faults().is_empty());
        let shown = faults.to_string();
        assert_eq!(shown.split('\n').count(), faults.faults().len(), "{shown}");
        let every = all.as_ref().unwrap_err().faults();
        for fault in faults.faults() {
            assert!(NAMES.contains(&fault.setting), "{fault}");
            assert!(!fault.problem.is_empty() && !fault.problem.ends_with('.'), "{fault}");
            assert!(fault.fix.ends_with('.'), "{fault}");
            // What is not read for want of a source is no fault of all.
            assert!(every.contains(fault) || self.0.contains_key("SOURCES"), "{fault}");
        }
        format!("{shown}{faults:?}")
    }
}

/// What the program relies on.
fn check(settings: &Settings, today: NaiveDate) {
    let Settings {
        mimecast,
        entra_risk,
        directory,
        ingestion,
        state,
        schedule,
        listen: _,
        run_time_limit,
        max_rows,
        quarantine_max_bytes,
        give_up_after,
        spill_after,
        spill_max_bytes,
    } = settings;
    let graph = [entra_risk.as_ref().map(|of| &of.graph), directory.as_ref().map(|of| &of.graph)];
    let graph: Vec<_> = graph.into_iter().flatten().collect();
    let bases = mimecast.iter().map(|of| &of.base_url).chain(graph.iter().map(|of| &of.base_url));
    let on_loopback = bases.clone().any(is_loopback);
    assert!(bases.count() > 0);
    for graph in graph {
        origin(&graph.base_url);
        let own = Url::parse(graph.cloud.graph()).unwrap();
        assert!(graph.base_url == own || is_loopback(&graph.base_url));
    }
    if let Some(directory) = directory {
        assert!((1..=13).contains(&directory.round.num_days()));
    }
    assert!(entra_risk.as_ref().and_then(|of| of.start).is_none_or(|day| day <= today));
    if let Some(mimecast) = mimecast {
        origin(&mimecast.base_url);
        let host = mimecast.base_url.host_str().unwrap();
        let vendor = host.ends_with(".services.mimecast.com");
        let is_vendors = vendor && mimecast.base_url.scheme() == "https";
        assert!(is_loopback(&mimecast.base_url) || is_vendors);
        assert!(identifier(&mimecast.client_id));
        secret(&mimecast.client_secret, on_loopback);
        let known = ["entities", "mailflow", "urlclick"];
        let in_order: Vec<&str> =
            known.into_iter().filter(|t| mimecast.types.contains(t)).collect();
        assert!(!in_order.is_empty() && mimecast.types == in_order);
        assert!(mimecast.start_date <= today);
        assert!((1..=50).contains(&mimecast.calls_per_15_minutes));
        assert!((1 << 10..=16 << 20).contains(&mimecast.limits.max_line_bytes));
        assert!((1 << 10..=1 << 40).contains(&mimecast.limits.max_file_bytes));
    }

    origin(&ingestion.endpoint);
    let host = ingestion.endpoint.host_str().unwrap();
    let suffix = match ingestion.cloud {
        AzureCloud::Public => ".ingest.monitor.azure.com",
        AzureCloud::UsGov => ".ingest.monitor.azure.us",
        AzureCloud::China => ".ingest.monitor.azure.cn",
    };
    let azure = host.ends_with(suffix) && ingestion.endpoint.scheme() == "https";
    assert!(azure || (on_loopback && is_loopback(&ingestion.endpoint)));
    assert!(ingestion.rule_id.len() == 36 && identifier(&ingestion.rule_id));
    for stream in [Some(&ingestion.stream), ingestion.health_stream.as_ref()].into_iter().flatten()
    {
        assert!(stream.starts_with("Custom-") && identifier(stream));
    }
    assert!(ingestion.gzip_level <= 9);
    assert_eq!(ingestion.identity.authority_host.scheme(), "https");
    origin(&ingestion.identity.authority_host);
    match &ingestion.identity.credential {
        CredentialSettings::ClientSecret { tenant_id, client_id, secret: of } => {
            assert!(identifier(tenant_id) && identifier(client_id));
            secret(of, on_loopback);
        }
        CredentialSettings::WorkloadIdentity { tenant_id, client_id, .. } => {
            assert!(identifier(tenant_id) && identifier(client_id));
        }
        CredentialSettings::ManagedIdentity { client_id, .. } => {
            assert!(client_id.as_ref().is_none_or(|id| identifier(id)));
        }
        CredentialSettings::AzureCli => {}
    }

    if let StateLocation::Blob { container, access } = &state.location {
        let secure = container.scheme() == "https";
        assert!(secure || (is_loopback(container) && matches!(access, BlobAccessSettings::Sas(_))));
        assert!(container.query().is_none() && container.fragment().is_none());
        assert!(container.username().is_empty() && container.password().is_none());
        let name = container.path().rsplit('/').next().unwrap();
        assert!((3..=63).contains(&name.len()) && identifier(name), "{container}");
    }
    assert!(schedule.smallest_gap() >= Duration::from_secs(600));
    let least = if on_loopback { 1 } else { 60 };
    assert!((least..=86_400).contains(&run_time_limit.as_secs()));
    assert!((1_000..=1_000_000_000).contains(max_rows));
    for bytes in [quarantine_max_bytes, spill_max_bytes] {
        assert!((1_000_000..=1_000_000_000_000_000).contains(bytes));
    }
    for after in std::iter::once(give_up_after).chain(spill_after) {
        assert!((0..=168).contains(&after.num_hours()));
    }
}

/// A token of the program's identity goes to a vault.
fn secret(secret: &SecretSettings, on_loopback: bool) {
    match secret {
        SecretSettings::Given(secret) => assert!(!secret.expose_secret().trim().is_empty()),
        SecretSettings::File(path) => assert!(!path.as_os_str().is_empty()),
        SecretSettings::Vault(secret) => {
            let (url, host) = (&secret.url, secret.url.host_str().unwrap());
            let suffix = match secret.cloud {
                AzureCloud::Public => ".vault.azure.net",
                AzureCloud::UsGov => ".vault.usgovcloudapi.net",
                AzureCloud::China => ".vault.azure.cn",
            };
            let vault = url.scheme() == "https" && url.port().is_none() && host.ends_with(suffix);
            assert!(vault || (on_loopback && is_loopback(url)), "{url}");
            assert!(url.path().starts_with("/secrets/") && url.query().is_none(), "{url}");
            assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        }
    }
}

fn origin(url: &Url) {
    assert!(matches!(url.scheme(), "http" | "https") && url.host_str().is_some(), "{url}");
    assert!(url.path() == "/" && url.query().is_none() && url.fragment().is_none(), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
}

/// What goes into paths, forms and queries as it is.
fn identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
