//! Where rows are sent, and the identity that sends them.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::origin::{https_host, is_loopback, origin};
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, identifier, whole_number, wrong};
use super::secret::{Forms, SecretSettings};

const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
/// Set by the platform where an app or a VM extension has a managed identity.
const IDENTITY_ENDPOINT: &str = "IDENTITY_ENDPOINT";
const IDENTITY_HEADER: &str = "IDENTITY_HEADER";

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

/// Who asks Entra for a token, and where.
#[derive(Clone, Debug)]
pub struct AzureIdentity {
    /// Where tokens are issued; `https`, without a path.
    pub authority_host: Url,
    /// With what.
    pub credential: CredentialSettings,
}

/// With what a token is asked for.
#[derive(Clone, Debug)]
pub enum CredentialSettings {
    /// An application and its secret.
    ClientSecret {
        /// The application's tenant.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// Its secret.
        secret: SecretSettings,
    },
    /// An application that trusts another issuer's token.
    WorkloadIdentity {
        /// The application's tenant.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// Holds that token; read each time, since it is replaced.
        token_file: PathBuf,
    },
    /// The identity of the app, found through `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    ManagedIdentity {
        /// `IDENTITY_ENDPOINT`: where this machine's platform hands out tokens.
        endpoint: Url,
        /// `IDENTITY_HEADER`, which proves to it that the caller runs here.
        header: SecretString,
        /// The user-assigned identity; without it the system-assigned one.
        client_id: Option<String>,
    },
    /// The person who ran `az login` on this machine.
    AzureCli,
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
        return wrong("it is on this machine while MIMECAST_BASE_URL is not", fix);
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

/// What an identity is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Posting to the data collection rule.
    Rule,
    /// What is beside the app: checkpoints and quarantine, and the key vault.
    Beside,
}

/// The identity for `purpose`. A client secret may be of another tenant, that of the rule; the
/// storage account and the vault are beside the app, so that a managed identity serves them better.
pub(super) fn identity(
    raw: &RawSettings,
    purpose: Purpose,
    reader: &mut Reader<'_>,
) -> Option<AzureIdentity> {
    let authority_host = authority_host(raw, reader);
    let managed = reader.env(IDENTITY_ENDPOINT).is_some();
    let credential = if let [secret, ..] = secret_forms(raw).set(reader).as_slice() {
        if purpose == Purpose::Beside && managed {
            // AZURE_CLIENT_ID is that of the secret.
            managed_identity(&None, reader)
        } else {
            client_secret(raw, secret, reader)
        }
    } else if let Some(file) = given(&raw.azure_federated_token_file) {
        workload_identity(raw, PathBuf::from(file), reader)
    } else if managed {
        managed_identity(&raw.azure_client_id, reader)
    } else {
        azure_cli(raw, reader)
    };
    Some(AzureIdentity { authority_host: authority_host?, credential: credential? })
}

/// Where tokens are issued, in a cloud that is valid.
fn authority_host(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Url> {
    const FIX: &str = "Set it to https:// and a host, or unset it to use that of AZURE_CLOUD.";
    let cloud = cloud(raw, reader);
    let default = cloud.unwrap_or(AzureCloud::Public).authority_host();
    let host =
        reader.optional("AZURE_AUTHORITY_HOST", &raw.azure_authority_host, default, |text| {
            let url = origin(text).or_else(|problem| wrong(problem, FIX))?;
            if url.scheme() == "https" { Ok(url) } else { wrong("it is not https", FIX) }
        });
    cloud.and(host)
}

fn secret_forms(raw: &RawSettings) -> Forms<'_> {
    Forms {
        itself: "AZURE_CLIENT_SECRET",
        file: ("AZURE_CLIENT_SECRET_FILE", &raw.azure_client_secret_file),
        url: ("AZURE_CLIENT_SECRET_URI", &raw.azure_client_secret_uri),
    }
}

/// The application's tenant and id, which `owner` needs.
fn application(
    raw: &RawSettings,
    owner: &str,
    reader: &mut Reader<'_>,
) -> (Option<String>, Option<String>) {
    let fix = |what: &str| format!("{owner} is set and needs it: set the {what}.");
    (
        reader.required("AZURE_TENANT_ID", &raw.azure_tenant_id, &fix("tenant's id"), identifier),
        reader.required(
            "AZURE_CLIENT_ID",
            &raw.azure_client_id,
            &fix("application's (client) id"),
            identifier,
        ),
    )
}

/// `set` is the setting that names the secret.
fn client_secret(
    raw: &RawSettings,
    set: &str,
    reader: &mut Reader<'_>,
) -> Option<CredentialSettings> {
    let (tenant_id, client_id) = application(raw, set, reader);
    let secret = secret_forms(raw)
        .read("Set it in the environment.", raw, reader, |reader| reads_the_secret(raw, reader));
    Some(CredentialSettings::ClientSecret {
        tenant_id: tenant_id?,
        client_id: client_id?,
        secret: secret?,
    })
}

/// Who reads the application's secret from a key vault: not the application.
fn reads_the_secret(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<AzureIdentity> {
    let authority_host = authority_host(raw, reader);
    let credential = if reader.env(IDENTITY_ENDPOINT).is_some() {
        managed_identity(&None, reader)
    } else {
        login(reader)
    };
    Some(AzureIdentity { authority_host: authority_host?, credential: credential? })
}

fn workload_identity(
    raw: &RawSettings,
    token_file: PathBuf,
    reader: &mut Reader<'_>,
) -> Option<CredentialSettings> {
    let (tenant_id, client_id) = application(raw, TOKEN_FILE, reader);
    Some(CredentialSettings::WorkloadIdentity {
        tenant_id: tenant_id?,
        client_id: client_id?,
        token_file,
    })
}

fn managed_identity(
    client_id: &Option<String>,
    reader: &mut Reader<'_>,
) -> Option<CredentialSettings> {
    const FIX: &str = "The platform sets it: pass it on as it is.";
    let endpoint = reader.env(IDENTITY_ENDPOINT);
    // Its text is not repeated: it may hold a password.
    let endpoint = reader.required(IDENTITY_ENDPOINT, &endpoint, FIX, |text| {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
        url.map_or_else(|| wrong("it is not the address of an identity endpoint", FIX), Ok)
    });
    let header = reader.env(IDENTITY_HEADER);
    if header.is_none() {
        reader.fault(
            IDENTITY_HEADER,
            Wrong {
                problem: format!("it is not set, while {IDENTITY_ENDPOINT} is"),
                fix: "The platform sets both: pass both on, or neither.".to_owned(),
            },
        );
    }
    let client_id = match given(client_id) {
        Some(_) => Some(reader.required("AZURE_CLIENT_ID", client_id, "", identifier)?),
        None => None,
    };
    Some(CredentialSettings::ManagedIdentity {
        endpoint: endpoint?,
        header: header?.into(),
        client_id,
    })
}

/// The last resort, but not where the other settings show that another identity was meant.
fn azure_cli(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<CredentialSettings> {
    if given(&raw.azure_client_id).is_some() {
        let problem = format!("it is set, but neither AZURE_CLIENT_SECRET nor {TOKEN_FILE} is");
        let fix = "Set one of them in the environment, or unset AZURE_CLIENT_ID to use your `az \
                   login`; a managed identity needs IDENTITY_ENDPOINT, which the platform sets, and a \
                   virtual machine does not.";
        reader.fault("AZURE_CLIENT_ID", Wrong { problem, fix: fix.to_owned() });
        return None;
    }
    login(reader)
}

/// The person's own, which a function app has not.
fn login(reader: &mut Reader<'_>) -> Option<CredentialSettings> {
    if reader.under_functions() {
        let problem = "the function app has no managed identity".to_owned();
        let fix = "Turn on its system-assigned identity, or set AZURE_TENANT_ID, \
                   AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.";
        reader.fault(IDENTITY_ENDPOINT, Wrong { problem, fix: fix.to_owned() });
        return None;
    }
    Some(CredentialSettings::AzureCli)
}
