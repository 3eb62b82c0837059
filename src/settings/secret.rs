//! A secret: in the environment, in a file, or in a key vault.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::azure::{AzureCloud, cloud};
use super::identity::AzureIdentity;
use super::origin::{https_host, is_loopback};
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, wrong};
use super::sources::on_loopback;

/// Where a secret is. A file and a vault are read each time that the secret is needed, since it may
/// have been replaced.
#[derive(Clone, Debug)]
pub enum SecretSettings {
    /// In the environment.
    Given(SecretString),
    /// In this file, as containers mount secrets.
    File(PathBuf),
    /// In a key vault.
    Vault(Box<VaultSecret>),
}

/// A secret in a key vault.
#[derive(Clone, Debug)]
pub struct VaultSecret {
    /// `https://<vault>.vault.azure.net/secrets/<name>`, perhaps with a version.
    pub url: Url,
    /// The vault's cloud.
    pub cloud: AzureCloud,
    /// Who reads it.
    pub identity: AzureIdentity,
}

/// The three settings of a secret, of which one is given.
pub(super) struct Forms<'a> {
    /// The secret itself, which is read from the environment alone.
    pub(super) itself: &'static str,
    /// Its file.
    pub(super) file: (&'static str, &'a Option<String>),
    /// Its URL in a key vault.
    pub(super) url: (&'static str, &'a Option<String>),
}

impl Forms<'_> {
    /// The names of those that are set.
    pub(super) fn set(&self, reader: &Reader<'_>) -> Vec<&'static str> {
        let itself = reader.env(self.itself).map(|_| self.itself);
        let others = [&self.file, &self.url];
        let others = others.into_iter().filter(|(_, value)| given(value).is_some());
        itself.into_iter().chain(others.map(|(name, _)| *name)).collect()
    }

    /// The secret, wherever it is. `fix` says what to do if it is nowhere; `identity` is who reads a
    /// vault, and is asked for only where one is given: a dry run needs nothing else of Azure.
    pub(super) fn read(
        &self,
        fix: &str,
        raw: &RawSettings,
        reader: &mut Reader<'_>,
        identity: impl FnOnce(&mut Reader<'_>) -> Option<AzureIdentity>,
    ) -> Option<SecretSettings> {
        if let [first, second, ..] = self.set(reader).as_slice() {
            let problem = format!("it is set, and so is {first}");
            reader.fault(second, Wrong { problem, fix: "Set one of them.".to_owned() });
            return None;
        }
        if let Some(path) = given(self.file.1) {
            return Some(SecretSettings::File(PathBuf::from(path)));
        }
        let (name, text) = &self.url;
        if given(text).is_none() {
            return reader.secret(self.itself, fix).map(SecretSettings::Given);
        }
        let cloud = cloud(raw, reader);
        let url = reader.required(name, text, "", |text| vault_url(text, cloud, on_loopback(raw)));
        let identity = identity(reader);
        let (url, cloud, identity) = (url?, cloud?, identity?);
        Some(SecretSettings::Vault(Box::new(VaultSecret { url, cloud, identity })))
    }
}

/// A secret's URL. The app's token goes there, so that its host is a key vault's.
fn vault_url(text: &str, cloud: Option<AzureCloud>, on_loopback: bool) -> Result<Url, Wrong> {
    let suffix = cloud.unwrap_or(AzureCloud::Public).vault_suffix();
    let fix = format!(
        "Set it to the Secret Identifier that the key vault shows, https://<vault>{suffix}/secrets/<name>; \
         without the version at its end, so that a new one is read; for another cloud set AZURE_CLOUD too."
    );
    let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
    else {
        return wrong("it is not a URL that begins with https://", fix);
    };
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return wrong("it has a user name, a password, or something after `?` or `#`", fix);
    }
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    let names = segments.strip_prefix(&["secrets"]).unwrap_or_default();
    if !matches!(names.len(), 1 | 2) || !names.iter().all(|name| is_name(name)) {
        return wrong("its path is not that of a secret", fix);
    }
    if is_loopback(&url) {
        if on_loopback {
            return Ok(url);
        }
        return wrong("it is on this machine, and no source that is on is", fix);
    }
    let host = https_host(&url).or_else(|problem| wrong(problem, &*fix))?;
    let is_vault = |suffix| host.strip_suffix(suffix).is_some_and(is_name);
    if cloud.is_none() || is_vault(suffix) {
        return Ok(url);
    }
    wrong(format!("{host} is not a key vault of this cloud"), fix)
}

/// A vault's, a secret's or a version's.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
