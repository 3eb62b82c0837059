//! A folder of a store, as a store of its own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteStream, Lease, Store, StoreError};

/// All objects of a store whose names begin with a folder's, under their names without it.
#[derive(Clone)]
pub struct Below {
    store: Arc<dyn Store>,
    folder: &'static str,
}

impl Below {
    /// The folder of this name, without its `/`.
    pub fn new(store: Arc<dyn Store>, folder: &'static str) -> Self {
        Self { store, folder }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Below").field(&self.location()).finish()
    }
}

#[async_trait]
impl Store for Below {
    fn location(&self) -> String {
        format!("{}/{}", self.store.location().trim_end_matches('/'), self.folder)
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.read(&self.name(name)).await
    }

    async fn read_stream(&self, name: &str) -> Result<Option<ByteStream>, StoreError> {
        self.store.read_stream(&self.name(name)).await
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.store.write(&self.name(name), bytes).await
    }

    async fn write_stream(&self, name: &str, bytes: ByteStream) -> Result<(), StoreError> {
        self.store.write_stream(&self.name(name), bytes).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let names = self.store.list(&self.name(prefix)).await?;
        let below = self.folder.len() + 1;
        Ok(names.into_iter().filter_map(|name| Some(name.get(below..)?.to_owned())).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(&self.name(name)).await
    }

    async fn lease(&self, name: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        self.store.lease(&self.name(name)).await
    }
}
