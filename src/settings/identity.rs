//! Who the program is in Azure: the first credential that fits.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::azure::{AzureCloud, cloud};
use super::origin::origin;
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, identifier, wrong};
use super::secret::{Forms, SecretSettings};

const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
/// Set by the platform where an app or a VM extension has a managed identity.
const IDENTITY_ENDPOINT: &str = "IDENTITY_ENDPOINT";
const IDENTITY_HEADER: &str = "IDENTITY_HEADER";

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
pub(super) fn authority_host(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Url> {
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
