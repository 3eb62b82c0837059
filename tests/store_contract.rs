//! What every store has to keep, proven on both: a folder, and Azure Blob Storage as Azurite has it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use azure_storage_blob::models::{BlobClientBreakLeaseOptions, BlobClientUploadOptions};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use mimecast_sentinel::azure::blob::{BlobAccess, BlobStore};
use mimecast_sentinel::azure::credential::{Credentials, Ways};
use mimecast_sentinel::http::RetryPolicy;
use mimecast_sentinel::seams::{Clock, Random};
use mimecast_sentinel::settings::{CredentialSettings, SecretSettings};
use mimecast_sentinel::store::{ByteStream, FolderStore, Lease, Store, StoreError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use url::{Url, form_urlencoded};

use crate::support::azurite::{Azurite, sas};
use crate::support::{entra_tls, own_process};

/// A store, and what can be done to it from outside.
#[async_trait]
trait Place: Send + Sync {
    fn store(&self) -> &dyn Store;

    /// Takes the lease away from its holder.
    async fn break_lease(&self, name: &str);
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    contract(&Folder::new()).await;
}

#[tokio::test]
async fn a_container_keeps_the_contract() {
    let Some(azurite) = Azurite::start().await else { return };
    contract(&Container::new(&azurite, "contract").await).await;
}

async fn contract(place: &dyn Place) {
    what_was_never_written_is_not_there(place.store()).await;
    the_last_write_is_read(place.store()).await;
    names_are_listed_by_prefix_and_in_order(place.store()).await;
    what_was_deleted_is_gone(place.store()).await;
    a_stream_is_written_whole_or_not_at_all(place.store()).await;
    no_name_leads_out(place.store()).await;
    one_lease_at_a_time(place.store()).await;
    the_holder_reads_and_writes(place.store()).await;
    a_lost_lease_overwrites_nothing(place).await;
    clearing_removes_and_releases(place).await;
}

async fn what_was_never_written_is_not_there(store: &dyn Store) {
    assert_eq!(store.read("never/written.json").await.unwrap(), None);
    assert_eq!(store.list("never/").await.unwrap(), [""; 0]);
    store.delete("never/written.json").await.unwrap();
}

async fn the_last_write_is_read(store: &dyn Store) {
    store.write("w/a.json", "one".into()).await.unwrap();
    store.write("w/b.json", "other".into()).await.unwrap();
    store.write("w/a.json", "two, longer".into()).await.unwrap();
    store.write("w/a.json", "3".into()).await.unwrap();
    assert_eq!(store.read("w/a.json").await.unwrap().unwrap(), "3");
    assert_eq!(store.read("w/b.json").await.unwrap().unwrap(), "other");
}

async fn names_are_listed_by_prefix_and_in_order(store: &dyn Store) {
    for name in ["l/b/z", "l/a", "l/b/1/x", "l/b-c", "l/B", "l/b=1.json", "m/a"] {
        store.write(name, name.into()).await.unwrap();
    }
    store.write("l/empty", Bytes::new()).await.unwrap();
    let all = store.list("l/").await.unwrap();
    assert_eq!(all, ["l/B", "l/a", "l/b-c", "l/b/1/x", "l/b/z", "l/b=1.json"]);
    assert_eq!(store.list("l/b").await.unwrap(), all[2..]);
    assert_eq!(store.list("l/b/").await.unwrap(), ["l/b/1/x", "l/b/z"]);
    assert_eq!(store.list("l/b/z").await.unwrap(), ["l/b/z"]);
    assert_eq!(store.list("l/c").await.unwrap(), [""; 0]);
    // Each holds its name.
    let bytes = |names: &[String]| names.iter().map(|name| name.len() as u64).sum::<u64>();
    assert_eq!(store.size("l/").await.unwrap(), bytes(&all));
    assert_eq!(store.size("l/b").await.unwrap(), bytes(&all[2..]));
    assert_eq!(store.size("l/c").await.unwrap(), 0);
    let everywhere = store.list("").await.unwrap();
    assert!(all.iter().all(|name| everywhere.contains(name)), "{everywhere:?}");
    assert_eq!(store.read("l/empty").await.unwrap(), None);
}

async fn what_was_deleted_is_gone(store: &dyn Store) {
    store.write("d/a", "a".into()).await.unwrap();
    store.delete("d/a").await.unwrap();
    store.delete("d/a").await.unwrap();
    assert_eq!(store.read("d/a").await.unwrap(), None);
    assert_eq!(store.list("d/").await.unwrap(), [""; 0]);
}

async fn a_stream_is_written_whole_or_not_at_all(store: &dyn Store) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bytes: Bytes = std::iter::repeat_with(|| random.u8(..)).take(9 << 20).collect();

    store.write_stream("s/big", pieces(&bytes, &mut random)).await.unwrap();
    assert!(store.read("s/big").await.unwrap().unwrap() == bytes);
    let mut read = BytesMut::new();
    let mut pieces_read = store.read_stream("s/big").await.unwrap().unwrap();
    while let Some(piece) = pieces_read.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == bytes);
    for none in ["s/none", "l/empty"] {
        assert!(store.read_stream(none).await.unwrap().is_none(), "{none}");
    }

    let other = Bytes::from(vec![7; 9 << 20]);
    let broken = Err(io::Error::other("the line went dead"));
    let broken = pieces(&other, &mut random).chain(stream::iter([broken])).boxed();
    let error = store.write_stream("s/big", broken).await.unwrap_err();
    assert!(error.to_string().contains("writing s/big"), "{error}");
    assert!(error.to_string().contains("the line went dead"), "{error}");
    assert!(store.read("s/big").await.unwrap().unwrap() == bytes);

    let broken = stream::iter([Ok(other), Err(io::Error::other("again"))]).boxed();
    store.write_stream("s/new", broken).await.unwrap_err();
    assert_eq!(store.read("s/new").await.unwrap(), None);

    store.write_stream("s/big", stream::iter([Ok("small".into())]).boxed()).await.unwrap();
    assert_eq!(store.read("s/big").await.unwrap().unwrap(), "small");
    assert_eq!(store.list("s/").await.unwrap(), ["s/big"]);
}

fn pieces(bytes: &Bytes, random: &mut fastrand::Rng) -> ByteStream {
    let (mut rest, mut pieces) = (bytes.clone(), Vec::new());
    while !rest.is_empty() {
        pieces.push(Ok(rest.split_to(random.usize(0..=rest.len().min(700_000)))));
    }
    stream::iter(pieces).boxed()
}

async fn no_name_leads_out(store: &dyn Store) {
    for name in ["", "/etc/x", "../x", "a/../../x", "a//x", "a/.x", "a\\x", "a/x.lock"] {
        let written = store.write(name, "x".into()).await;
        assert!(matches!(written, Err(StoreError::Failed { .. })), "{name}");
        assert!(store.read(name).await.is_err(), "{name}");
        assert!(store.delete(name).await.is_err(), "{name}");
        assert!(store.write_stream(name, stream::empty().boxed()).await.is_err(), "{name}");
        assert!(store.lease(name).await.is_err(), "{name}");
    }
}

async fn one_lease_at_a_time(store: &dyn Store) {
    let first = store.lease("lease/a").await.unwrap().unwrap();
    assert!(store.lease("lease/a").await.unwrap().is_none());
    let other = store.lease("lease/b").await.unwrap().unwrap();
    assert!(first.held() && other.held());
    // A watch does not keep it.
    let watch = first.watch();
    first.release().await.unwrap();
    let second = store.lease("lease/a").await.unwrap().unwrap();
    drop(watch);
    assert!(store.lease("lease/a").await.unwrap().is_none());
    second.release().await.unwrap();
    other.release().await.unwrap();
    assert_eq!(store.list("lease/").await.unwrap(), [""; 0], "nothing was written");
}

async fn the_holder_reads_and_writes(store: &dyn Store) {
    let mut lease = store.lease("h/a").await.unwrap().unwrap();
    assert_eq!(lease.read().await.unwrap(), None);
    assert_eq!(store.read("h/a").await.unwrap(), None);
    lease.write("one".into()).await.unwrap();
    lease.write("two".into()).await.unwrap();
    assert_eq!(store.read("h/a").await.unwrap().unwrap(), "two");
    assert_eq!(lease.read().await.unwrap().unwrap(), "two");
    lease.write("three".into()).await.unwrap();
    lease.release().await.unwrap();

    let mut lease = store.lease("h/a").await.unwrap().unwrap();
    assert_eq!(lease.read().await.unwrap().unwrap(), "three");
    lease.write("four".into()).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(store.read("h/a").await.unwrap().unwrap(), "four");
}

async fn a_lost_lease_overwrites_nothing(place: &dyn Place) {
    let store = place.store();
    let mut lease = store.lease("lost/a").await.unwrap().unwrap();
    lease.write("ours".into()).await.unwrap();
    let watch = lease.watch();
    assert!(lease.held() && watch.held());
    place.break_lease("lost/a").await;
    let mut theirs = store.lease("lost/a").await.unwrap().unwrap();
    theirs.write("theirs".into()).await.unwrap();

    assert_lost(lease.write("ours again".into()).await);
    assert!(!lease.held() && !watch.held());
    assert_lost(lease.write("and again".into()).await);
    assert_lost(lease.clear().await);
    assert_eq!(theirs.read().await.unwrap().unwrap(), "theirs");
    theirs.write("theirs again".into()).await.unwrap();
    theirs.release().await.unwrap();

    // Even if nobody has taken it since.
    let mut lease = store.lease("lost/b").await.unwrap().unwrap();
    lease.write("ours".into()).await.unwrap();
    place.break_lease("lost/b").await;
    assert_lost(lease.write("ours again".into()).await);
    assert!(!lease.held());
    assert_eq!(store.read("lost/b").await.unwrap().unwrap(), "ours");
    lease.release().await.unwrap();
}

async fn clearing_removes_and_releases(place: &dyn Place) {
    let store = place.store();
    let mut lease = store.lease("c/a").await.unwrap().unwrap();
    lease.write("something".into()).await.unwrap();
    lease.clear().await.unwrap();
    assert_eq!(store.read("c/a").await.unwrap(), None);

    let mut lease = store.lease("c/a").await.unwrap().unwrap();
    assert_eq!(lease.read().await.unwrap(), None);
    lease.write("again".into()).await.unwrap();
    place.break_lease("c/a").await;
    let other = store.lease("c/a").await.unwrap().unwrap();
    assert_lost(lease.clear().await);
    assert_eq!(store.read("c/a").await.unwrap().unwrap(), "again");
    other.release().await.unwrap();
}

fn assert_lost(result: Result<(), StoreError>) {
    assert!(matches!(result, Err(StoreError::LeaseLost { .. })), "{result:?}");
}

struct Folder {
    store: FolderStore,
    path: PathBuf,
    _parent: TempDir,
}

impl Folder {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("not/there/yet");
        Self { store: FolderStore::new(&path), path, _parent: parent }
    }
}

#[async_trait]
impl Place for Folder {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn break_lease(&self, name: &str) {
        std::fs::remove_file(self.path.join(format!("{name}.lock"))).unwrap();
    }
}

struct Container {
    store: BlobStore,
    /// Another way in, for what the store does not do.
    client: BlobContainerClient,
}

impl Container {
    async fn new(azurite: &Azurite, name: &str) -> Self {
        let url = azurite.create_container(name).await;
        Self { store: blob_store(url.clone(), &sas("rcwdl")), client: client(url) }
    }

    fn blob(&self, name: &str) -> BlobClient {
        self.client.blob_client(name)
    }
}

#[async_trait]
impl Place for Container {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn break_lease(&self, name: &str) {
        let at_once = BlobClientBreakLeaseOptions { break_period: Some(0), ..Default::default() };
        self.blob(name).break_lease(Some(at_once)).await.unwrap();
    }
}

fn blob_store(container: Url, sas: &str) -> BlobStore {
    BlobStore::new(container, BlobAccess::Sas(sas.into()), &http()).unwrap()
}

fn client(mut container: Url) -> BlobContainerClient {
    container.set_query(Some(&sas("rcwdl")));
    let version = "2025-11-05".to_owned();
    let options = BlobContainerClientOptions { version, ..Default::default() };
    BlobContainerClient::new(container, None, Some(options)).unwrap()
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

// What only Azure can do to a store.

#[tokio::test]
async fn an_identity_works_by_its_token() {
    let Some(azurite) = Azurite::start_with_entra().await else { return };
    let container = azurite.create_container("identity").await;
    let store = async |audience| {
        let access = BlobAccess::Identity(identity(token_for(audience)).await);
        BlobStore::new(container.clone(), access, &azurite.http).unwrap()
    };
    let store_of_blobs = store("https://storage.azure.com").await;
    let mut lease = store_of_blobs.lease("a").await.unwrap().unwrap();
    lease.write("a".into()).await.unwrap();
    assert_eq!(lease.read().await.unwrap().unwrap(), "a");
    lease.release().await.unwrap();

    let error = store("https://monitor.azure.com").await.read("a").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("*Storage Blob Data Contributor*"), "{error}");
    assert!(!format!("{error} {error:?}").contains("eyJ"), "{error:?}");
}

/// An identity to which Entra gives this answer where it is asked for a token for Blob Storage.
async fn identity((status, answer): (StatusCode, Value)) -> Arc<Credentials> {
    let entra = async move |form: String| {
        let asked = form_urlencoded::parse(form.as_bytes()).find(|(name, _)| name == "scope");
        assert_eq!(asked.unwrap().1, "https://storage.azure.com/.default");
        (status, answer.to_string())
    };
    let (authority, http) = entra_tls::serve(Router::new().fallback(entra)).await;
    Arc::new(Credentials {
        settings: CredentialSettings::ClientSecret {
            tenant_id: "tenant".to_owned(),
            client_id: "client".to_owned(),
            secret: SecretSettings::Given("secret~canary".into()),
        },
        authority,
        ways: Ways {
            http: http.clone(),
            http_without_proxy: http,
            retry: RetryPolicy::default(),
            seams: (Clock::system(), Random::seeded(1)),
        },
    })
}

/// A token for this audience.
fn token_for(audience: &str) -> (StatusCode, Value) {
    let encode = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let claims = json!({
        "aud": audience, "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
        "nbf": 0, "iat": 0, "exp": 4_000_000_000_u64,
    });
    let token = format!("{}.{}.x", encode(json!({"alg": "RS256"})), encode(claims));
    (StatusCode::OK, json!({"access_token": token, "expires_in": 3600}))
}

#[tokio::test]
async fn a_refusal_by_azure_tells_what_to_do() {
    let Some(azurite) = Azurite::start().await else { return };
    let container = azurite.create_container("refusals").await;

    let missing = blob_store(azurite.container("missing"), &sas("rcwdl"));
    let not_there = [
        missing.read("a").await.map(drop).unwrap_err(),
        missing.write("a", "a".into()).await.unwrap_err(),
        missing.list("").await.map(drop).unwrap_err(),
        missing.lease("a").await.map(drop).unwrap_err(),
    ];
    for error in not_there {
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("create the container"), "{error}");
        assert!(error.to_string().contains("ContainerNotFound"), "{error}");
        assert_no_secret(&error);
    }

    let read_only = blob_store(container.clone(), &sas("rl"));
    read_only.list("").await.unwrap();
    let error = read_only.write("a", "a".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("must permit read, create, write"), "{error}");
    assert_no_secret(&error);

    // Without a lease nobody writes over what another leases.
    let store = blob_store(container, &sas("rcwdl"));
    let lease = store.lease("leased").await.unwrap().unwrap();
    let error = store.write("leased", "a".into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("lease"), "{error}");
    assert!(store.delete("leased").await.is_err());
    lease.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_account_is_a_failure_without_secrets() {
    let port = {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        unused.local_addr().unwrap().port()
    };
    let url = Url::parse(&format!("http://127.0.0.1:{port}/account/container?se=1")).unwrap();
    let store = blob_store(url, &sas("rcwdl"));
    assert_eq!(store.location(), format!("http://127.0.0.1:{port}/account/container"));
    assert!(!format!("{store:?}").contains("sig"), "{store:?}");
    let error = store.read("a").await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_no_secret(&error);
}

#[tokio::test]
async fn no_token_is_sent_in_the_clear() {
    let url = Url::parse("http://127.0.0.1:1/account/container").unwrap();
    let access = BlobAccess::Identity(identity(no_token()).await);
    let error = BlobStore::new(url, access, &http()).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("https"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_credential_is_to_blame() {
    let url = Url::parse("https://127.0.0.1:1/account/container").unwrap();
    let store =
        BlobStore::new(url, BlobAccess::Identity(identity(no_token()).await), &http()).unwrap();
    let error = store.read("a").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("AADSTS7000215: no such secret"), "{error}");
}

fn no_token() -> (StatusCode, Value) {
    let said = "AADSTS7000215: no such secret";
    (StatusCode::UNAUTHORIZED, json!({"error": "invalid_client", "error_description": said}))
}

/// Neither the words nor the fields of an error have the SAS.
fn assert_no_secret(error: &StoreError) {
    let said = format!("{error} {error:?}");
    assert!(!said.contains("sig=") && !said.contains("sp=rc&"), "{said}");
}

#[tokio::test]
async fn an_answer_that_got_lost_loses_nothing() {
    let Some(azurite) = Azurite::start().await else { return };
    let mut url = azurite.create_container("answers").await;
    let proxy = Proxy::start(azurite.port).await;
    url.set_port(Some(proxy.port)).unwrap();
    let store = blob_store(url, &sas("rcwdl"));
    store.write("a", "old".into()).await.unwrap();

    proxy.swallow_next_answer();
    let mut lease = store.lease("a").await.unwrap().expect("the second try is ours as well");
    assert!(proxy.swallowed());
    assert!(store.lease("a").await.unwrap().is_none());
    assert_eq!(lease.read().await.unwrap().unwrap(), "old");

    proxy.swallow_next_answer();
    lease.write("new".into()).await.unwrap();
    assert!(proxy.swallowed());
    lease.write("newer".into()).await.unwrap();
    assert_eq!(store.read("a").await.unwrap().unwrap(), "newer");

    proxy.swallow_next_answer();
    lease.clear().await.unwrap();
    assert!(proxy.swallowed());
    assert_eq!(store.read("a").await.unwrap(), None);

    proxy.swallow_next_answer();
    let lease = store.lease("a").await.unwrap().expect("making the blob may be repeated");
    proxy.swallow_next_answer();
    lease.release().await.unwrap();
    assert!(store.lease("a").await.unwrap().is_some());
}

#[tokio::test]
async fn a_change_under_the_very_same_lease_is_not_overwritten() {
    let Some(azurite) = Azurite::start().await else { return };
    let url = azurite.create_container("etag").await;
    let (client, proxy) = (client(url.clone()), Proxy::start(azurite.port).await);
    let mut url = url;
    url.set_port(Some(proxy.port)).unwrap();
    let store = blob_store(url, &sas("rcwdl"));
    let mut lease = store.lease("a").await.unwrap().unwrap();
    lease.write("ours".into()).await.unwrap();

    let lease_id = Some(proxy.seen_header("x-ms-lease-id: "));
    let options = BlobClientUploadOptions { lease_id, ..Default::default() };
    let theirs = Bytes::from("theirs");
    client.blob_client("a").upload(theirs.clone().into(), Some(options)).await.unwrap();

    assert_lost(lease.write("ours again".into()).await);
    assert!(!lease.held());
    assert_eq!(store.read("a").await.unwrap().unwrap(), theirs);
}

/// A proxy between a store and Azurite that loses answers.
struct Proxy {
    port: u16,
    swallow: Arc<AtomicBool>,
    requests: Arc<Mutex<String>>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (swallow, requests) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let proxy = Self { port, swallow: swallow.clone(), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass(client, server, swallow.clone(), Arc::clone(&requests)));
            }
        });
        proxy
    }

    fn swallow_next_answer(&self) {
        self.swallow.store(true, Ordering::SeqCst);
    }

    fn swallowed(&self) -> bool {
        !self.swallow.load(Ordering::SeqCst)
    }

    /// The value of the last header of this name.
    fn seen_header(&self, name: &str) -> String {
        let requests = self.requests.lock().unwrap();
        let (_, value) = requests.rsplit_once(name).expect("a request with that header");
        value.lines().next().unwrap().to_owned()
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    swallow: Arc<AtomicBool>,
    requests: Arc<Mutex<String>>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            requests.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let back = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if swallow.swap(false, Ordering::SeqCst)
                || to_client.write_all(&buffer[..length]).await.is_err()
            {
                break;
            }
        }
    };
    // Both connections close as soon as one direction ends.
    tokio::select! { () = there => {}, () = back => {} }
}

// What only a file system can do to a store.

#[tokio::test]
async fn looking_makes_no_folder() {
    let folder = Folder::new();
    assert_eq!(folder.store.read("a/b").await.unwrap(), None);
    assert_eq!(folder.store.list("").await.unwrap(), [""; 0]);
    folder.store.delete("a/b").await.unwrap();
    assert!(!folder.path.exists() && !folder.path.parent().unwrap().exists());
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_their_owners_alone_and_none_is_left_over() {
    let folder = Folder::new();
    let q = folder.path.join("q");
    let store = &folder.store;
    store.write("q/a.json", "a".into()).await.unwrap();
    store.write("q/a.json", "b".into()).await.unwrap();
    let while_written = q.clone();
    let looks = stream::once(async move {
        let draft = modes_in(&while_written).pop_first().unwrap();
        assert!(draft.0.starts_with(".b.") && draft.1 == 0o600, "{draft:?}");
        Ok("b".into())
    });
    store.write_stream("q/b", looks.boxed()).await.unwrap();
    let broken = stream::iter([Ok("c".into()), Err(io::Error::other("broken"))]).boxed();
    store.write_stream("q/c", broken).await.unwrap_err();
    let lease = store.lease("q/a.json").await.unwrap().unwrap();
    lease.release().await.unwrap();

    let expected = ["a.json", "a.json.lock", "b"].map(|name| (name.to_owned(), 0o600));
    assert_eq!(modes_in(&q), expected.into());
    assert_eq!(modes_in(&folder.path), [("q".to_owned(), 0o700)].into());
    assert_eq!(modes_in(folder.path.parent().unwrap()), [("yet".to_owned(), 0o700)].into());
}

/// The permissions of what is in a folder, by its name.
#[cfg(unix)]
fn modes_in(folder: &Path) -> BTreeMap<String, u32> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mode = |entry: &std::fs::DirEntry| entry.metadata().unwrap().permissions().mode() & 0o777;
    entries.map(|entry| (entry.file_name().into_string().unwrap(), mode(&entry))).collect()
}

#[tokio::test]
async fn a_write_behind_the_leases_back_is_not_overwritten() {
    let folder = Folder::new();
    for earlier in [None, Some("earlier")] {
        let mut lease = folder.store.lease("a").await.unwrap().unwrap();
        if let Some(earlier) = earlier {
            lease.read().await.unwrap();
            lease.write(earlier.into()).await.unwrap();
        }
        folder.store.write("a", "theirs".into()).await.unwrap();
        assert_lost(lease.write("ours".into()).await);
        assert!(!lease.held());
        assert_eq!(folder.store.read("a").await.unwrap().unwrap(), "theirs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_file_vanishes_is_lost_in_seconds_though_nothing_is_written() {
    let folder = Folder::new();
    let lease = folder.store.lease("a").await.unwrap().unwrap();
    let watch = lease.watch();
    sleep(Duration::from_secs(60)).await;
    assert!(lease.held() && watch.held());
    folder.break_lease("a").await;
    let start = Instant::now();
    while lease.held() {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!watch.held());
}

#[tokio::test]
async fn a_dropped_lease_is_free_at_once() {
    let folder = Folder::new();
    drop(folder.store.lease("a").await.unwrap().unwrap());
    assert!(folder.store.lease("a").await.unwrap().is_some());
}

/// Nor is it an empty one: a run would start over.
#[tokio::test]
async fn a_folder_that_cannot_be_one_is_refused_by_its_path() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let store = FolderStore::new(&file);
    let refusals = [
        store.write("a/b", "b".into()).await.unwrap_err(),
        store.read("a/b").await.map(drop).unwrap_err(),
        store.read_stream("a/b").await.map(drop).unwrap_err(),
        store.list("a/").await.map(drop).unwrap_err(),
        store.delete("a/b").await.unwrap_err(),
        store.lease("a/b").await.map(drop).unwrap_err(),
    ];
    for error in refusals {
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        let said = error.to_string();
        assert!(said.starts_with(&format!("{} refuses ", file.display())), "{said}");
        assert!(said.contains("CHECKPOINT_URL"), "{said}");
    }
}

/// It is reported, and not tried for ever. (In `/proc` nobody makes a file.)
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_takes_no_file_is_a_failure() {
    let store = FolderStore::new("/proc/self");
    for name in ["a", "a/b"] {
        let error = store.write(name, "a".into()).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");
        assert!(error.to_string().contains("/proc/self"), "{error}");
    }
}

/// In a container each process has the same id, and counts from the start.
#[tokio::test]
async fn what_a_crash_left_half_written_is_in_nobodys_way() {
    // Drafts are counted from 0 in each process.
    if !own_process::alone(module_path!(), "what_a_crash_left_half_written_is_in_nobodys_way") {
        return;
    }
    let folder = Folder::new();
    folder.store.write("a", "old".into()).await.unwrap();
    for count in 0..1_000 {
        let draft = format!(".a.{}-{count}.tmp", std::process::id());
        std::fs::write(folder.path.join(draft), "half").unwrap();
    }
    folder.store.write("a", "new".into()).await.unwrap();
    assert_eq!(folder.store.read("a").await.unwrap().unwrap(), "new");
}

/// Guessing a draft's name makes nothing be written elsewhere.
#[cfg(unix)]
#[tokio::test]
async fn a_link_in_place_of_a_draft_or_of_an_object_is_not_written_through() {
    // Drafts are counted from 0 in each process.
    if !own_process::alone(
        module_path!(),
        "a_link_in_place_of_a_draft_or_of_an_object_is_not_written_through",
    ) {
        return;
    }
    let folder = Folder::new();
    folder.store.write("a", "old".into()).await.unwrap();
    let elsewhere = folder.path.parent().unwrap().join("elsewhere");
    std::fs::write(&elsewhere, "theirs").unwrap();
    for count in 0..1_000 {
        let draft = format!(".a.{}-{count}.tmp", std::process::id());
        std::os::unix::fs::symlink(&elsewhere, folder.path.join(draft)).unwrap();
    }
    std::fs::remove_file(folder.path.join("a")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.path.join("a")).unwrap();
    for read in [
        folder.store.read("a").await.map(drop),
        folder.store.read_stream("a").await.map(drop),
        folder.store.lease("a").await.map(drop),
    ] {
        let error = read.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("it is a link"), "{error}");
    }
    folder.store.write("a", "new".into()).await.unwrap();
    assert_eq!(folder.store.read("a").await.unwrap().unwrap(), "new");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "theirs");
}

/// Where the process that the next test kills keeps its lease.
const HOLDERS_FOLDER: &str = "STORE_CONTRACT_HOLDERS_FOLDER";

#[tokio::test]
async fn a_killed_holder_leaves_its_lease() {
    use std::io::{BufRead, BufReader};
    let folder = Folder::new();
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(own_process::args(module_path!(), "holder"))
        .env(HOLDERS_FOLDER, &folder.path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("lease taken")));
    assert!(folder.store.lease("a").await.unwrap().is_none());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(folder.store.lease("a").await.unwrap().is_some());
}

/// The process that [`a_killed_holder_leaves_its_lease`] starts and kills.
#[tokio::test]
async fn holder() {
    let Some(folder) = std::env::var_os(HOLDERS_FOLDER) else { return };
    let lease: Box<dyn Lease> = FolderStore::new(folder).lease("a").await.unwrap().unwrap();
    println!("lease taken");
    std::future::pending::<()>().await;
    drop(lease);
}
