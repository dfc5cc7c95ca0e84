//! Direct calls to stores in this process.
//!
//! The service is looked up by store id on every call, so that a store that was
//! stopped and started again is reached without a new connection.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::kv::{Context, CoprocessorRequest, KvRequest, KvResponse, StoreInfoResponse};
use cairn_proto::meta;
use dashmap::DashMap;

use super::{CoprocessorStream, KvStoreService, StoreConnector, TransportError};

/// Connects to stores of this process, and to others through a fallback.
#[derive(Clone, Default)]
pub struct LocalConnector {
    stores: Arc<DashMap<u64, Arc<dyn KvStoreService>>>,
    fallback: Option<Arc<dyn StoreConnector>>,
}

impl LocalConnector {
    /// Knows no store yet and has no fallback.
    pub fn new() -> LocalConnector {
        LocalConnector::default()
    }

    /// Stores that are not registered are reached through `fallback`.
    pub fn with_fallback(fallback: Arc<dyn StoreConnector>) -> LocalConnector {
        LocalConnector { stores: Arc::default(), fallback: Some(fallback) }
    }

    /// Makes a store of this process reachable.
    pub fn register(&self, store_id: u64, service: Arc<dyn KvStoreService>) {
        self.stores.insert(store_id, service);
    }

    /// Removes a store; calls to it fail as unreachable from now on.
    pub fn unregister(&self, store_id: u64) {
        self.stores.remove(&store_id);
    }
}

impl StoreConnector for LocalConnector {
    fn connect(&self, store: &meta::Store) -> Arc<dyn KvStoreService> {
        if let Some(fallback) = &self.fallback
            && !self.stores.contains_key(&store.id)
        {
            return fallback.connect(store);
        }
        Arc::new(LocalStore { store_id: store.id, stores: self.stores.clone() })
    }
}

/// A store of this process, whichever object serves it now.
struct LocalStore {
    store_id: u64,
    stores: Arc<DashMap<u64, Arc<dyn KvStoreService>>>,
}

impl LocalStore {
    fn service(&self) -> Result<Arc<dyn KvStoreService>, TransportError> {
        let service = self.stores.get(&self.store_id).map(|store| store.clone());
        service.ok_or_else(|| TransportError::Unreachable {
            address: format!("store {} of this process", self.store_id),
            reason: "it is not running".into(),
        })
    }
}

#[async_trait]
impl KvStoreService for LocalStore {
    async fn call(&self, request: KvRequest) -> Result<KvResponse, TransportError> {
        self.service()?.call(request).await
    }

    fn try_get_now(&self, context: &Context, key: &Bytes, version: u64) -> Option<KvResponse> {
        self.stores.get(&self.store_id)?.try_get_now(context, key, version)
    }

    async fn coprocessor(
        &self,
        request: CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        self.service()?.coprocessor(request).await
    }

    async fn store_info(&self) -> Result<StoreInfoResponse, TransportError> {
        self.service()?.store_info().await
    }
}
