//! The services Cairn's tiers speak: the `.proto` files and their generated code.
//!
//! These structs are the seam between processes. A crate converts them to its own
//! vocabulary at its edge (house rule: proto structs stop in the server module).

/// Regions, peers, stores.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod meta {
    tonic::include_proto!("cairn.meta");
}

/// The placement driver's service.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod pd {
    tonic::include_proto!("cairn.pd");
}

/// Plan fragments for the coprocessor.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod cop {
    tonic::include_proto!("cairn.cop");
}

/// The key-value tier's service.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod kv {
    tonic::include_proto!("cairn.kv");

    impl LockInfo {
        /// All holders of the lock, one by one.
        pub fn holders(&self) -> impl Iterator<Item = &LockInfo> {
            std::iter::once(self).chain(&self.shared_with)
        }
    }
}
