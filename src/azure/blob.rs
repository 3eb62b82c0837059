//! The store in a container of Azure Blob Storage.

use std::num::NonZero;
use std::sync::Arc;
use std::{fmt, io};

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::{Etag, StatusCode};
use azure_core::{Error, Uuid};
use azure_storage_blob::models::{
    BlobClientAcquireLeaseOptions, BlobClientAcquireLeaseResultHeaders, BlobClientDownloadOptions,
    BlobClientUploadOptions, BlobContainerClientListBlobsOptions, BlockLookupList,
    StorageErrorCode,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use bytes::{Bytes, BytesMut};
use futures::future::ready;
use futures::{Stream, StreamExt, TryFutureExt, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::blob_errors::{code, has_code, is_unmet_condition, remedy, said_by_storage};
use super::blob_lease::{self, BlobLease};
use super::credential::{self, AccessTokens, Credentials};
use super::{sdk, transport};
use crate::store::{ByteStream, Lease, Names, Store, StoreError, TooLarge, is_name, most_bytes};

/// The REST version that every request asks for: the newest that Azurite 3.35 knows. Nothing here
/// needs a newer one.
const API_VERSION: &str = "2025-11-05";

/// What tokens for Blob Storage are for, in every cloud.
const SCOPE: &str = "https://storage.azure.com/.default";

/// Pieces of a blob that are asked for at a time: each takes 4 MiB of memory, and waits for those
/// before it.
const ONE: Option<NonZero<usize>> = NonZero::new(1);

/// The size of the blocks that a streamed object is sent in. 50,000 of them make a blob.
const BLOCK_BYTES: usize = 4 << 20;

/// What this program shows to the container.
#[derive(Clone, Debug)]
pub enum BlobAccess {
    /// A shared access signature: the query of a SAS URL, with or without its question mark.
    Sas(SecretString),
    /// Entra tokens; `https` only.
    Identity(Arc<Credentials>),
}

/// Objects as block blobs of one container, which has to exist.
#[derive(Clone)]
pub struct BlobStore {
    container: Arc<BlobContainerClient>,
    location: Arc<str>,
    /// What to do about a 401 or 403.
    remedy: &'static str,
}

impl BlobStore {
    /// The store in `container`, e.g. `https://<account>.blob.core.windows.net/<container>`. A query
    /// of the URL is ignored: a SAS comes in through `access`. `http` should have a read timeout;
    /// it is the transport, and failed requests are repeated for 15 s at most.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that cannot be a container's.
    pub fn new(
        mut container: Url,
        access: BlobAccess,
        http: &reqwest::Client,
    ) -> Result<Self, StoreError> {
        container.set_query(None);
        container.set_fragment(None);
        let path = container.path().trim_end_matches('/').to_owned();
        container.set_path(&path);
        let location = container.to_string();
        let refuse = |reason: String| StoreError::Refused {
            location: location.clone(),
            action: "being the CHECKPOINT_URL".to_owned(),
            reason,
        };
        let mut client_options = sdk::client_options(http);
        let remedy = match access {
            BlobAccess::Sas(sas) => {
                container.set_query(Some(sas.expose_secret().trim_start_matches('?')));
                "the SAS must not have expired and must permit read, create, write, delete and \
                 list on the container (sp=rcwdl)"
            }
            BlobAccess::Identity(_) if container.scheme() != "https" => {
                return Err(refuse("it must use https: a token is sent to it".to_owned()));
            }
            BlobAccess::Identity(credentials) => {
                let tokens = AccessTokens::new(Credentials::clone(&credentials), SCOPE);
                client_options.per_try_policies.push(Arc::new(tokens));
                "the identity needs the role *Storage Blob Data Contributor* on the container (a \
                 new role takes up to 30 minutes to spread), and the storage account's firewall \
                 must let this machine in"
            }
        };
        let options =
            BlobContainerClientOptions { client_options, version: API_VERSION.to_owned() };
        if path.is_empty() {
            return Err(refuse("it names no container".to_owned()));
        }
        let container = BlobContainerClient::new(container, None, Some(options))
            .map_err(|error| refuse(sdk::explain(&error)))?;
        Ok(Self { container: Arc::new(container), location: location.into(), remedy })
    }

    pub(super) fn blob(&self, name: &str, action: &str) -> Result<BlobClient, StoreError> {
        if is_name(name) {
            return Ok(self.container.blob_client(name));
        }
        Err(self.failed(action, format!("{name:?} cannot be the name of an object")))
    }

    /// The bytes of a blob, at most `most`, and its version; under a lease, if one is given.
    pub(super) async fn download(
        blob: &BlobClient,
        most: u64,
        lease_id: Option<String>,
    ) -> Result<(Bytes, Option<Etag>), Error> {
        let options = BlobClientDownloadOptions { lease_id, parallel: ONE, ..Default::default() };
        let mut blob = blob.download(Some(options)).await?;
        let size = transport::size_of_whole(&blob.headers);
        let mut bytes = BytesMut::new();
        while size.is_none_or(|size| size <= most)
            && bytes.len() as u64 <= most
            && let Some(piece) = blob.body.try_next().await?
        {
            bytes.extend_from_slice(&piece);
        }
        let read = bytes.len() as u64;
        let length = size.unwrap_or(read).max(read);
        if length > most {
            return Err(Error::new(ErrorKind::DataConversion, TooLarge { length, most }));
        }
        if read < length {
            let what = format!("{read} of {length} bytes arrived");
            return Err(Error::with_message(ErrorKind::Io, what));
        }
        Ok((bytes.freeze(), blob.properties.etag))
    }

    /// The objects whose names begin with `prefix`, with their lengths.
    fn objects<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Stream<Item = Result<(String, u64), StoreError>> + Send + 'a {
        let fault = move |error| self.fault(&format!("listing {prefix}*"), error);
        let prefix = Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty());
        let options = BlobContainerClientListBlobsOptions { prefix, ..Default::default() };
        let objects = async move { self.container.list_blobs(Some(options)) }
            .try_flatten_stream()
            .try_filter_map(|blob| {
                let length = blob.properties.and_then(|properties| properties.content_length);
                let name = blob.name.filter(|name| length != Some(0) && is_name(name));
                ready(Ok(name.map(|name| (name, length.unwrap_or(0)))))
            });
        objects.map_err(fault)
    }

    /// Makes an empty blob, so that it can be leased. One that exists already is fine.
    async fn create_empty(&self, blob: &BlobClient) -> Result<(), Error> {
        let options =
            BlobClientUploadOptions { if_none_match: Some("*".into()), ..Default::default() };
        match blob.upload(Bytes::new().into(), Some(options)).await {
            Err(error) if has_code(&error, StorageErrorCode::BlobAlreadyExists) => Ok(()),
            Err(error) if is_unmet_condition(&error) => Ok(()),
            done => done.map(drop),
        }
    }

    pub(super) fn failed(&self, action: &str, reason: String) -> StoreError {
        StoreError::Failed { location: self.location(), action: action.to_owned(), reason }
    }

    /// What a failed request means to the caller.
    pub(super) fn fault(&self, action: &str, error: Error) -> StoreError {
        let (refused, reason) = match error.http_status() {
            Some(status @ (StatusCode::Unauthorized | StatusCode::Forbidden)) => {
                (true, format!("{}; {}", said_by_storage(status, error), self.remedy))
            }
            Some(status) => match code(&error).and_then(remedy) {
                Some(remedy) => (true, format!("{}; {remedy}", said_by_storage(status, error))),
                None => (false, said_by_storage(status, error)),
            },
            None => {
                let too_large = sdk::causes(&error).any(|cause| cause.is::<TooLarge>());
                (too_large || credential::is_refusal(&error), sdk::explain(&error))
            }
        };
        if !refused {
            return self.failed(action, reason);
        }
        StoreError::Refused { location: self.location(), action: action.to_owned(), reason }
    }
}

#[async_trait]
impl Store for BlobStore {
    fn location(&self) -> String {
        self.location.to_string()
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let action = format!("reading {name}");
        match Self::download(&self.blob(name, &action)?, most_bytes(name), None).await {
            Ok((bytes, _)) => Ok(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Err(error) if has_code(&error, StorageErrorCode::BlobNotFound) => Ok(None),
            Err(error) => Err(self.fault(&action, error)),
        }
    }

    async fn read_stream(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        let action = format!("reading {name}");
        let options = BlobClientDownloadOptions { parallel: ONE, ..Default::default() };
        match self.blob(name, &action)?.download(Some(options)).await {
            Ok(blob) if blob.properties.content_length == Some(0) => Ok(None),
            Ok(blob) => {
                let pieces = blob.body.map_err(|error| io::Error::other(sdk::explain(&error)));
                Ok(Some(pieces.boxed()))
            }
            Err(error) if has_code(&error, StorageErrorCode::BlobNotFound) => Ok(None),
            Err(error) => Err(self.fault(&action, error)),
        }
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let action = format!("writing {name}");
        let written = self.blob(name, &action)?.upload(bytes.into(), None).await;
        written.map(drop).map_err(|error| self.fault(&action, error))
    }

    async fn write_stream(&self, name: &str, mut bytes: ByteStream) -> Result<(), StoreError> {
        let action = format!("writing {name}");
        let blob = self.blob(name, &action)?.block_blob_client();
        let mut ids = Vec::new();
        let mut pending = BytesMut::new();
        loop {
            let piece = bytes.next().await.transpose().map_err(|error| {
                self.failed(&action, format!("the bytes to write broke off: {error}"))
            })?;
            let ended = piece.is_none();
            pending.extend_from_slice(&piece.unwrap_or_default());
            while pending.len() >= BLOCK_BYTES || (ended && !pending.is_empty()) {
                let block = pending.split_to(pending.len().min(BLOCK_BYTES)).freeze();
                // Random, so that two who write the same name do not mix their blocks.
                let id = Uuid::new_v4().as_bytes().to_vec();
                let staged = blob.stage_block(&id, block.len() as u64, block.into(), None).await;
                staged.map_err(|error| self.fault(&action, error))?;
                ids.push(id);
            }
            if ended {
                break;
            }
        }
        let blocks = BlockLookupList { latest: Some(ids), ..Default::default() };
        let committed = async { blob.commit_block_list(blocks.try_into()?, None).await };
        committed.await.map(drop).map_err(|error| self.fault(&action, error))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names: Vec<String> = self.names(prefix).try_collect().await?;
        names.sort();
        Ok(names)
    }

    fn names<'a>(&'a self, prefix: &'a str) -> Names<'a> {
        self.objects(prefix).map_ok(|(name, _)| name).boxed()
    }

    async fn size(&self, prefix: &str) -> Result<u64, StoreError> {
        let lengths = self.objects(prefix).map_ok(|(_, length)| length);
        lengths.try_fold(0, |sum, length| ready(Ok(sum + length))).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let action = format!("removing {name}");
        match self.blob(name, &action)?.delete(None).await {
            Err(error) if has_code(&error, StorageErrorCode::BlobNotFound) => Ok(()),
            done => done.map(drop).map_err(|error| self.fault(&action, error)),
        }
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        let action = format!("leasing {name}");
        let blob = self.blob(name, &action)?;
        // An id of our own makes a repeated request one request.
        let id = Uuid::new_v4().to_string();
        // Twice, if the blob has to be made first; more often only if somebody keeps removing it.
        for _ in 0..3 {
            let proposed_lease_id = Some(id.clone());
            let options = BlobClientAcquireLeaseOptions { proposed_lease_id, ..Default::default() };
            let asked = Instant::now();
            let seconds = blob_lease::TERM.as_secs() as i32;
            let error = match blob.acquire_lease(seconds, Some(options)).await {
                Ok(answer) => {
                    let etag = answer.etag().map_err(|error| self.fault(&action, error))?;
                    let lease = BlobLease::new(self.clone(), name, blob, id, etag, asked);
                    return Ok(Some(Box::new(lease)));
                }
                Err(error) => error,
            };
            if is_unmet_condition(&error) {
                return Ok(None);
            }
            if !has_code(&error, StorageErrorCode::BlobNotFound) {
                return Err(self.fault(&action, error));
            }
            self.create_empty(&blob).await.map_err(|error| self.fault(&action, error))?;
        }
        Err(self.failed(&action, "somebody keeps removing it".to_owned()))
    }
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStore").field("location", &self.location).finish_non_exhaustive()
    }
}
