//! A store that keeps nothing: for a dry run, which writes nothing.

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteStream, Lease, LeaseWatch, Store, StoreError};

/// Always empty, and free for everybody; what is written to it is gone.
#[derive(Clone, Copy, Debug)]
pub struct NullStore;

#[async_trait]
impl Store for NullStore {
    fn location(&self) -> String {
        "nowhere".to_owned()
    }

    async fn read(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn write(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        Ok(())
    }

    async fn write_stream(&self, _: &str, _: ByteStream) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self, _: &str) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lease(&self, _: &str) -> Result<Option<Box<dyn Lease>>, StoreError> {
        Ok(Some(Box::new(Self)))
    }
}

#[async_trait]
impl Lease for NullStore {
    fn held(&self) -> bool {
        true
    }

    fn watch(&self) -> LeaseWatch {
        LeaseWatch::new(|| true)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    async fn write(&mut self, _: Bytes) -> Result<(), StoreError> {
        Ok(())
    }

    async fn clear(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_gone_and_everybody_may_write() {
        let mut lease = NullStore.lease("a").await.unwrap().unwrap();
        assert!(NullStore.lease("a").await.unwrap().is_some());
        lease.write("a".into()).await.unwrap();
        NullStore.write("b", "b".into()).await.unwrap();
        assert!(lease.held() && lease.watch().held());
        assert_eq!(lease.read().await.unwrap(), None);
        assert_eq!(NullStore.read("b").await.unwrap(), None);
        assert!(NullStore.read_stream("b").await.unwrap().is_none());
        assert_eq!(NullStore.list("").await.unwrap(), [""; 0]);
    }
}
