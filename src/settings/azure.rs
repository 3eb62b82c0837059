//! Where rows are sent, and in which of Azure's clouds.

use url::Url;

use super::identity::{AzureIdentity, Purpose, identity};
use super::origin::{https_host, is_loopback, origin};
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, whole_number, wrong};

/// Which of Azure's separate clouds. The addresses of the sovereign ones are from Microsoft's
/// documentation and were never tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzureCloud {
    /// The global one.
    Public,
    /// Azure Government of the United States.
    UsGov,
    /// Azure in China, operated by 21Vianet.
    China,
}

impl AzureCloud {
    /// What a token for the Logs Ingestion API is asked for.
    pub fn scope(self) -> &'static str {
        match self {
            Self::Public => "https://monitor.azure.com/.default",
            Self::UsGov => "https://monitor.azure.us/.default",
            Self::China => "https://monitor.azure.cn/.default",
        }
    }

    /// Where Entra issues its tokens.
    pub fn authority_host(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGov => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }

    /// What a token for its key vaults is asked for.
    pub fn vault_scope(self) -> &'static str {
        match self {
            Self::Public => "https://vault.azure.net/.default",
            Self::UsGov => "https://vault.usgovcloudapi.net/.default",
            Self::China => "https://vault.azure.cn/.default",
        }
    }

    /// Where its Microsoft Graph is.
    pub fn graph(self) -> &'static str {
        match self {
            Self::Public => "https://graph.microsoft.com",
            Self::UsGov => "https://graph.microsoft.us",
            Self::China => "https://microsoftgraph.chinacloudapi.cn",
        }
    }

    /// How the host of each of its key vaults ends.
    pub(super) fn vault_suffix(self) -> &'static str {
        match self {
            Self::Public => ".vault.azure.net",
            Self::UsGov => ".vault.usgovcloudapi.net",
            Self::China => ".vault.azure.cn",
        }
    }

    /// How the host of each of its ingestion endpoints ends.
    fn ingestion_suffix(self) -> &'static str {
        match self {
            Self::Public => ".ingest.monitor.azure.com",
            Self::UsGov => ".ingest.monitor.azure.us",
            Self::China => ".ingest.monitor.azure.cn",
        }
    }
}

/// Where rows are posted.
#[derive(Clone, Debug)]
pub struct IngestionSettings {
    /// `https` under `ingest.monitor.azure.com` or its like, or loopback; without a path.
    pub endpoint: Url,
    /// The data collection rule's immutable id: `dcr-` and 32 hexadecimal digits.
    pub rule_id: String,
    /// The rule's stream: `Custom-…`.
    pub stream: String,
    /// The rule's stream for the health table; `None` if no rows of health are sent.
    pub health_stream: Option<String>,
    /// gzip level of the bodies, 0 to 9.
    pub gzip_level: u32,
    /// The cloud, whose [`AzureCloud::scope`] the token is for.
    pub cloud: AzureCloud,
    /// Who posts.
    pub identity: AzureIdentity,
}

pub(super) fn read(
    raw: &RawSettings,
    on_loopback: bool,
    reader: &mut Reader<'_>,
) -> Option<IngestionSettings> {
    const RULE_FIX: &str = "Set it to the data collection rule's immutable id: `dcr-` and 32 \
                            hexadecimal digits, shown in the rule's JSON view as immutableId.";
    let cloud = cloud(raw, reader);
    let endpoint = reader.required(
        "LOGS_INGESTION_ENDPOINT",
        &raw.logs_ingestion_endpoint,
        "Set it to the logs ingestion URL of the data collection rule, shown in its JSON view as \
         endpoints.logsIngestion, or to that of the data collection endpoint.",
        |text| endpoint(text, cloud, on_loopback),
    );
    let rule_id =
        reader.required("LOGS_INGESTION_RULE_ID", &raw.logs_ingestion_rule_id, RULE_FIX, |text| {
            match text.strip_prefix("dcr-") {
                Some(id) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                    Ok(text.to_owned())
                }
                _ => wrong("it is not the immutable id of a data collection rule", RULE_FIX),
            }
        });
    let stream = reader.optional(
        "LOGS_INGESTION_STREAM",
        &raw.logs_ingestion_stream,
        "Custom-Cloud_Integrated",
        stream,
    );
    let health_stream = reader.optional(
        "HEALTH_STREAM",
        &raw.health_stream,
        "Custom-MimecastConnectorHealth",
        health_stream,
    );
    let gzip_level =
        reader.optional("GZIP_LEVEL", &raw.gzip_level, "2", whole_number(0..=9, "number"));
    let identity = identity(raw, Purpose::Rule, reader);
    Some(IngestionSettings {
        endpoint: endpoint?,
        rule_id: rule_id?,
        stream: stream?,
        health_stream: health_stream?,
        gzip_level: gzip_level?,
        cloud: cloud?,
        identity: identity?,
    })
}

pub(super) fn cloud(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<AzureCloud> {
    reader.optional("AZURE_CLOUD", &raw.azure_cloud, "public", |text| {
        match text.to_ascii_lowercase().as_str() {
            "public" => Ok(AzureCloud::Public),
            "usgov" => Ok(AzureCloud::UsGov),
            "china" => Ok(AzureCloud::China),
            _ => wrong(format!("{text:?} is not a cloud"), "Give public, usgov or china."),
        }
    })
}

/// Without a valid `cloud`, which is a fault of its own, the endpoint may be in any.
fn endpoint(text: &str, cloud: Option<AzureCloud>, on_loopback: bool) -> Result<Url, Wrong> {
    let suffix = cloud.unwrap_or(AzureCloud::Public).ingestion_suffix();
    let fix = format!(
        "Set it to https://<name>{suffix}, as the data collection rule or endpoint shows it; for \
         another cloud set AZURE_CLOUD too."
    );
    let url = origin(text).or_else(|problem| wrong(problem, &*fix))?;
    if is_loopback(&url) {
        if on_loopback {
            return Ok(url);
        }
        return wrong("it is on this machine, and no source that is on is", fix);
    }
    let host = https_host(&url).or_else(|problem| wrong(problem, &*fix))?;
    if cloud.is_none() || host.ends_with(suffix) {
        return Ok(url);
    }
    wrong(format!("{host} is not a logs ingestion endpoint of this cloud"), fix)
}

/// `off` is none.
fn health_stream(text: &str) -> Result<Option<String>, Wrong> {
    if text.eq_ignore_ascii_case("off") { Ok(None) } else { stream(text).map(Some) }
}

fn stream(text: &str) -> Result<String, Wrong> {
    let name = text.strip_prefix("Custom-").unwrap_or_default();
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
        return Ok(text.to_owned());
    }
    wrong(
        format!("{text:?} is not a custom stream"),
        "Give the name in the rule's streamDeclarations, e.g. Custom-Cloud_Integrated.",
    )
}
