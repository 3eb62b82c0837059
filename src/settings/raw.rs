//! The settings as given, before they are checked.

use std::fmt;

use clap::Args;

const MIMECAST: &str = "Mimecast settings";
const RUN: &str = "Settings of the run";
const AZURE: &str = "Azure settings";
const GRAPH: &str = "Microsoft Graph settings";

/// What the flags cannot show.
const SECRETS: &str = "\
Secrets, which are read from the environment alone, unless a file or a key vault has them:
  MIMECAST_CLIENT_SECRET  Secret of the Mimecast API 2.0 application; required
  AZURE_CLIENT_SECRET     Secret of the application AZURE_CLIENT_ID
  ENTRA_CLIENT_SECRET     Secret of the application ENTRA_CLIENT_ID

Azure is spoken to as the first of these that is set: AZURE_CLIENT_SECRET (or its file or URI), \
AZURE_FEDERATED_TOKEN_FILE, the managed identity (IDENTITY_ENDPOINT, which the platform sets), or \
else the login of `az login`. A flag overrides its variable, and an empty value is unset.";

/// Every setting that is not a secret, from its flag or else from its environment variable.
///
/// Secrets have no flag, since other processes read a command line: `MIMECAST_CLIENT_SECRET`,
/// `AZURE_CLIENT_SECRET`, `ENTRA_CLIENT_SECRET` and what the platform sets for its own identity (`IDENTITY_ENDPOINT`,
/// `IDENTITY_HEADER`) are taken from the environment alone.
///
/// A command flattens them after its own flags; otherwise its flags would be listed under the
/// settings' headings in its help. `Debug` shows no value: `CHECKPOINT_URL` may hold a SAS.
#[allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "the comments are also the help's text")]
#[derive(Args, Clone, Default)]
#[command(after_help = SECRETS)]
pub struct RawSettings {
    /// Sources to read, with commas: cloud-integrated (Mimecast's events), entra-risk, directory
    /// [default: cloud-integrated]
    #[arg(long, env = "SOURCES", hide_env_values = true, value_name = "SOURCES", help_heading = RUN)]
    pub sources: Option<String>,
    /// Where Mimecast's API 2.0 is [default: https://api.services.mimecast.com]
    #[arg(long, env = "MIMECAST_BASE_URL", hide_env_values = true, value_name = "URL", help_heading = MIMECAST)]
    pub mimecast_base_url: Option<String>,
    /// Client id of the Mimecast API 2.0 application; required
    #[arg(long, env = "MIMECAST_CLIENT_ID", hide_env_values = true, value_name = "ID", help_heading = MIMECAST)]
    pub mimecast_client_id: Option<String>,
    /// File with the application's secret, instead of MIMECAST_CLIENT_SECRET; read whenever a token is
    /// asked for
    #[arg(long, env = "MIMECAST_CLIENT_SECRET_FILE", hide_env_values = true, value_name = "PATH", help_heading = MIMECAST)]
    pub mimecast_client_secret_file: Option<String>,
    /// Key vault's URL of the application's secret, instead of MIMECAST_CLIENT_SECRET; read whenever a
    /// token is asked for, as the program's identity in Azure
    #[arg(long, env = "MIMECAST_CLIENT_SECRET_URI", hide_env_values = true, value_name = "URL", help_heading = MIMECAST)]
    pub mimecast_client_secret_uri: Option<String>,
    /// Event types to read, with commas [default: entities,mailflow,urlclick]
    #[arg(long, env = "MIMECAST_TYPES", hide_env_values = true, value_name = "TYPES", help_heading = MIMECAST)]
    pub mimecast_types: Option<String>,
    /// Listing calls in 15 minutes, 1 to 50, which is Mimecast's limit [default: 40]
    #[arg(long, env = "MIMECAST_CALLS_PER_15_MINUTES", hide_env_values = true, value_name = "N", help_heading = MIMECAST)]
    pub mimecast_calls_per_15_minutes: Option<String>,
    /// First day to read, in UTC, as YYYY-MM-DD [default: 60 days ago]
    #[arg(long, env = "START_DATE", hide_env_values = true, value_name = "DAY", help_heading = MIMECAST)]
    pub start_date: Option<String>,
    /// A longer line goes to quarantine; in bytes [default: 2097152, which is 2 MiB]
    #[arg(long, env = "MAX_LINE_BYTES", hide_env_values = true, value_name = "BYTES", help_heading = MIMECAST)]
    pub max_line_bytes: Option<String>,
    /// A batch file is read no further than this; in bytes, decompressed [default: 8589934592,
    /// which is 8 GiB]
    #[arg(long, env = "MAX_FILE_BYTES", hide_env_values = true, value_name = "BYTES", help_heading = MIMECAST)]
    pub max_file_bytes: Option<String>,
    /// When `serve` pulls: NCRONTAB with six fields, in UTC, ticks at least 10 minutes apart
    /// [default: 0 */15 * * * *, every 15 minutes]
    #[arg(long, env = "SCHEDULE", hide_env_values = true, value_name = "NCRONTAB", help_heading = RUN)]
    pub schedule: Option<String>,
    /// After this time a run posts nothing new; in seconds [default: 540, which is 9 minutes]
    #[arg(long, env = "RUN_TIME_LIMIT_SECONDS", hide_env_values = true, value_name = "SECONDS", help_heading = RUN)]
    pub run_time_limit_seconds: Option<String>,
    /// A run ends after so many rows; the next one goes on [default: 20000000]
    #[arg(long, env = "MAX_ROWS_PER_RUN", hide_env_values = true, value_name = "ROWS", help_heading = RUN)]
    pub max_rows_per_run: Option<String>,
    /// What holds a stream up (a batch file that cannot be had, a body whose rows are all refused) is
    /// passed after so many hours, and 6 runs [default: 24]
    #[arg(long, env = "GIVE_UP_AFTER_HOURS", hide_env_values = true, value_name = "HOURS", help_heading = RUN)]
    pub give_up_after_hours: Option<String>,
    /// When the destination has accepted nothing for so many hours, batch files are kept beside the
    /// checkpoints until it does; `never` keeps none [default: 72]
    #[arg(long, env = "SPILL_AFTER_HOURS", hide_env_values = true, value_name = "HOURS", help_heading = RUN)]
    pub spill_after_hours: Option<String>,
    /// So much is kept at most, then the stream stops; in bytes [default: 20000000000, which is 20 GB]
    #[arg(long, env = "SPILL_MAX_BYTES", hide_env_values = true, value_name = "BYTES", help_heading = RUN)]
    pub spill_max_bytes: Option<String>,
    /// How much to log: ERROR, WARNING, INFO, DEBUG or TRACE [default: INFO]
    #[arg(long, env = "LOG_LEVEL", hide_env_values = true, value_name = "LEVEL", help_heading = RUN)]
    pub log_level: Option<String>,
    /// Where `serve` shows the status page outside of Azure Functions, e.g. 127.0.0.1:8080; it asks
    /// nobody who they are [default: nowhere]
    #[arg(long, env = "LISTEN", hide_env_values = true, value_name = "ADDRESS:PORT", help_heading = RUN)]
    pub listen: Option<String>,
    /// How to log: text, or json, a line of JSON for each record [default: json in Azure Functions, text
    /// elsewhere]
    #[arg(long, env = "LOG_FORMAT", hide_env_values = true, value_name = "FORMAT", help_heading = RUN)]
    pub log_format: Option<String>,
    /// Where checkpoints and quarantine are kept: a folder, file:///… or the URL of a blob container; a
    /// URL with a SAS only in the environment [default: ./mimecast-sentinel-state; required in
    /// Azure Functions]
    #[arg(long, env = "CHECKPOINT_URL", hide_env_values = true, value_name = "URL", help_heading = RUN)]
    pub checkpoint_url: Option<String>,
    /// Quarantine holds no more than this, then the stream stops; in bytes [default: 20000000000,
    /// which is 20 GB]
    #[arg(long, env = "QUARANTINE_MAX_BYTES", hide_env_values = true, value_name = "BYTES", help_heading = RUN)]
    pub quarantine_max_bytes: Option<String>,
    /// Logs ingestion endpoint of the data collection rule, or of its endpoint (DCE); required
    #[arg(long, env = "LOGS_INGESTION_ENDPOINT", hide_env_values = true, value_name = "URL", help_heading = AZURE)]
    pub logs_ingestion_endpoint: Option<String>,
    /// Immutable id of the data collection rule: dcr-…; required
    #[arg(long, env = "LOGS_INGESTION_RULE_ID", hide_env_values = true, value_name = "ID", help_heading = AZURE)]
    pub logs_ingestion_rule_id: Option<String>,
    /// Stream of the data collection rule [default: Custom-Cloud_Integrated]
    #[arg(long, env = "LOGS_INGESTION_STREAM", hide_env_values = true, value_name = "NAME", help_heading = AZURE)]
    pub logs_ingestion_stream: Option<String>,
    /// Stream of the same rule for rows of health; `off` sends none [default:
    /// Custom-MimecastConnectorHealth]
    #[arg(long, env = "HEALTH_STREAM", hide_env_values = true, value_name = "NAME", help_heading = AZURE)]
    pub health_stream: Option<String>,
    /// How hard to compress what is sent, 0 to 9 [default: 2]
    #[arg(long, env = "GZIP_LEVEL", hide_env_values = true, value_name = "LEVEL", help_heading = AZURE)]
    pub gzip_level: Option<String>,
    /// Azure's cloud: public, usgov or china [default: public]
    #[arg(long, env = "AZURE_CLOUD", hide_env_values = true, value_name = "CLOUD", help_heading = AZURE)]
    pub azure_cloud: Option<String>,
    /// Where Entra issues tokens [default: that of AZURE_CLOUD]
    #[arg(long, env = "AZURE_AUTHORITY_HOST", hide_env_values = true, value_name = "URL", help_heading = AZURE)]
    pub azure_authority_host: Option<String>,
    /// Entra tenant, for a client secret or a federated token
    #[arg(long, env = "AZURE_TENANT_ID", hide_env_values = true, value_name = "ID", help_heading = AZURE)]
    pub azure_tenant_id: Option<String>,
    /// Application of the client secret or federated token; without these, a user-assigned
    /// identity [default: the system-assigned identity]
    #[arg(long, env = "AZURE_CLIENT_ID", hide_env_values = true, value_name = "ID", help_heading = AZURE)]
    pub azure_client_id: Option<String>,
    /// File with that application's secret, instead of AZURE_CLIENT_SECRET
    #[arg(long, env = "AZURE_CLIENT_SECRET_FILE", hide_env_values = true, value_name = "PATH", help_heading = AZURE)]
    pub azure_client_secret_file: Option<String>,
    /// Key vault's URL of that application's secret, instead of AZURE_CLIENT_SECRET; read as the managed
    /// identity, or else as your `az login`
    #[arg(long, env = "AZURE_CLIENT_SECRET_URI", hide_env_values = true, value_name = "URL", help_heading = AZURE)]
    pub azure_client_secret_uri: Option<String>,
    /// File with the token of a workload identity
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE", hide_env_values = true, value_name = "PATH", help_heading = AZURE)]
    pub azure_federated_token_file: Option<String>,
    /// When entra-risk runs, as SCHEDULE [default: 0 */15 * * * *, every 15 minutes]
    #[arg(long, env = "ENTRA_RISK_SCHEDULE", hide_env_values = true, value_name = "NCRONTAB", help_heading = GRAPH)]
    pub entra_risk_schedule: Option<String>,
    /// Send detections from this day on, as YYYY-MM-DD [default: those detected from the first run on]
    #[arg(long, env = "ENTRA_RISK_START_DATE", hide_env_values = true, value_name = "DAY", help_heading = GRAPH)]
    pub entra_risk_start_date: Option<String>,
    /// When directory runs, as SCHEDULE [default: 0 0 * * * *, hourly]
    #[arg(long, env = "DIRECTORY_SCHEDULE", hide_env_values = true, value_name = "NCRONTAB", help_heading = GRAPH)]
    pub directory_schedule: Option<String>,
    /// After so many days the whole directory is read again, 1 to 13 [default: 7]
    #[arg(long, env = "DIRECTORY_ROUND_DAYS", hide_env_values = true, value_name = "DAYS", help_heading = GRAPH)]
    pub directory_round_days: Option<String>,
    /// Entra tenant whose risk and directory are read, if not that of the program's own identity
    #[arg(long, env = "ENTRA_TENANT_ID", hide_env_values = true, value_name = "ID", help_heading = GRAPH)]
    pub entra_tenant_id: Option<String>,
    /// Application of that tenant
    #[arg(long, env = "ENTRA_CLIENT_ID", hide_env_values = true, value_name = "ID", help_heading = GRAPH)]
    pub entra_client_id: Option<String>,
    /// File with that application's secret, instead of ENTRA_CLIENT_SECRET
    #[arg(long, env = "ENTRA_CLIENT_SECRET_FILE", hide_env_values = true, value_name = "PATH", help_heading = GRAPH)]
    pub entra_client_secret_file: Option<String>,
    /// Key vault's URL of that application's secret, instead of ENTRA_CLIENT_SECRET
    #[arg(long, env = "ENTRA_CLIENT_SECRET_URI", hide_env_values = true, value_name = "URL", help_heading = GRAPH)]
    pub entra_client_secret_uri: Option<String>,
    /// Where Microsoft Graph is [default: that of AZURE_CLOUD]
    #[arg(long, env = "GRAPH_BASE_URL", hide_env_values = true, value_name = "URL", help_heading = GRAPH)]
    pub graph_base_url: Option<String>,
}

impl fmt::Debug for RawSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSettings").finish_non_exhaustive()
    }
}
