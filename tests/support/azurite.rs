//! Azurite, Microsoft's emulator of Azure Storage, on a free port of loopback.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use url::Url;

use super::entra_tls;
use super::ports::unused_port;

/// The account and the key that every Azurite has; Microsoft publishes them.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite, ended when it is dropped.
pub struct Azurite {
    child: Child,
    pub port: u16,
    scheme: &'static str,
    /// A client that trusts it.
    pub http: reqwest::Client,
    _folder: TempDir,
}

impl Azurite {
    /// Starts one; `None`, with a line that says so, where it is not installed.
    pub async fn start() -> Option<Self> {
        Self::start_as("http").await
    }

    /// Starts one that speaks HTTPS and takes Entra tokens too. It looks only at what a token says,
    /// not at its signature.
    pub async fn start_with_entra() -> Option<Self> {
        Self::start_as("https").await
    }

    async fn start_as(scheme: &'static str) -> Option<Self> {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/azurite/node_modules");
        let main = installed.join("azurite/dist/src/blob/main.js");
        if !main.exists() {
            // Straight to stderr: the test harness hides what `eprintln!` says in a test that passes.
            let skipped = "SKIPPED: Azurite is not installed; `npm ci --ignore-scripts` in \
                           tests/azurite installs it\n";
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return None;
        }
        let started = Self::start_on(unused_port(), &main, scheme).await;
        assert!(started.is_some(), "Azurite does not start; try `node {}`", main.display());
        started
    }

    async fn start_on(port: u16, main: &Path, scheme: &'static str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut options: Vec<OsString> = Vec::new();
        let mut http = reqwest::Client::builder().no_proxy().build().unwrap();
        if scheme == "https" {
            let (certificate, key, trusting) = entra_tls::certificate();
            let (pem, key_pem) = (folder.path().join("pem"), folder.path().join("key"));
            std::fs::write(&pem, certificate.pem()).unwrap();
            std::fs::write(&key_pem, key.serialize_pem()).unwrap();
            options = vec!["--oauth".into(), "basic".into(), "--cert".into(), pem.into()];
            options.extend(["--key".into(), key_pem.into()]);
            http = trusting;
        }
        let child = Command::new("node")
            .arg(main)
            .arg("--location")
            .arg(folder.path().join("blobs"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--silent", "--disableTelemetry"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Azurite needs `node`");
        let mut azurite = Self { child, port, scheme, http, _folder: folder };
        let start = Instant::now();
        while azurite.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(azurite);
            }
            assert!(start.elapsed() < Duration::from_secs(60), "Azurite does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Makes a container and returns its URL, without a SAS.
    pub async fn create_container(&self, name: &str) -> Url {
        let container = self.container(name);
        let mut url = container.clone();
        url.set_query(Some(&format!("restype=container&{}", sas("rwdlc"))));
        let answer = self.http.put(url).header("content-length", 0).send().await;
        assert_eq!(answer.unwrap().status(), 201);
        container
    }

    /// What breaks the lease on a blob at once, as anybody with the SAS may.
    pub fn lease_breaker(
        &self,
        container: &Url,
        blob: &str,
    ) -> impl Fn() -> BoxFuture<'static, ()> + Send + Sync + Clone + 'static {
        let (http, mut url) = (self.http.clone(), container.clone());
        url.set_path(&format!("{}/{blob}", container.path()));
        url.set_query(Some(&format!("comp=lease&{}", sas("rcwdl"))));
        move || {
            let request = http
                .put(url.clone())
                .header("content-length", 0)
                .header("x-ms-lease-action", "break")
                .header("x-ms-lease-break-period", "0");
            async move { assert_eq!(request.send().await.unwrap().status(), 202) }.boxed()
        }
    }

    /// The URL of a container, which need not be there.
    pub fn container(&self, name: &str) -> Url {
        Url::parse(&format!("{}://127.0.0.1:{}/{ACCOUNT}/{name}", self.scheme, self.port)).unwrap()
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An account SAS for blobs, containers and the service, with `permissions` such as `rwdlc`.
pub fn sas(permissions: &str) -> String {
    let (version, expiry) = ("2022-11-02", "2099-01-01T00:00:00Z");
    // Account, permissions, services, resource types, start, expiry, addresses, protocol, version,
    // encryption scope.
    let text = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n{expiry}\n\n\n{version}\n\n");
    let signature = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(KEY).unwrap(), &text));
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("sv", version), ("ss", "b"), ("srt", "sco"), ("sp", permissions)])
        .extend_pairs([("se", expiry), ("sig", &signature)])
        .finish()
}

/// HMAC-SHA256 (RFC 2104) with a key of one block of SHA-256, which that of Azurite is.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    assert_eq!(key.len(), 64);
    let pad = |with: u8| key.iter().map(|byte| byte ^ with).collect::<Vec<_>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}
