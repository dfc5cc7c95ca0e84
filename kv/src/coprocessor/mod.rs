//! stub
use std::sync::Arc;
use crate::raftstore::{Clock, RaftKv};
use crate::service::ReadPool;
use crate::txn::MaxTs;
/// x
pub struct Endpoint {}
impl Endpoint {
    /// x
    pub fn new(_: Arc<dyn RaftKv>, _: Arc<dyn Clock>, _: Arc<MaxTs>, _: Arc<ReadPool>) -> Endpoint { Endpoint {} }
    /// x
    pub async fn run(&self, _: cairn_proto::kv::CoprocessorRequest) -> cairn_kv_client::CoprocessorStream {
        Box::pin(futures::stream::empty())
    }
}
