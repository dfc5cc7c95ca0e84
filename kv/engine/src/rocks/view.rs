//! Snapshots and cursors of the data engine.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::live::IdleIterators;
use super::owned::{OwnedIterator, OwnedSnapshot};
use crate::{Cf, EngineError, EngineIterator, EngineSnapshot, IterOptions, Result};

pub(super) struct RocksSnapshot {
    pub(super) inner: Arc<OwnedSnapshot>,
}

impl EngineSnapshot for RocksSnapshot {
    fn sequence(&self) -> u64 {
        self.inner.sequence()
    }

    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.db().get(cf, key, self.inner.point_options())
    }

    fn iter(&self, cf: Cf, options: IterOptions) -> Box<dyn EngineIterator + Send> {
        let native = native_options(&options);
        let iterator = OwnedIterator::new(self.inner.clone(), cf, native);
        Box::new(RocksIterator::new(iterator, options.prefix_same_as_start))
    }
}

pub(super) fn native_options(options: &IterOptions) -> ReadOptions {
    let mut native = ReadOptions::default();
    if let Some(lower) = &options.lower {
        native.set_iterate_lower_bound(lower.to_vec());
    }
    if let Some(upper) = &options.upper {
        native.set_iterate_upper_bound(upper.to_vec());
    }
    native.set_prefix_same_as_start(options.prefix_same_as_start);
    native.set_total_order_seek(!options.prefix_same_as_start);
    native.fill_cache(!options.skip_cache);
    native
}

pub(super) struct RocksIterator {
    /// `None` only while it is dropped.
    iterator: Option<OwnedIterator>,
    /// Where the iterator goes when it is no longer needed here.
    home: Option<Arc<IdleIterators>>,
    within_prefix: bool,
    /// What `seek` was given, without its timestamp; our own check keeps the
    /// meaning in column families whose files have no prefix filter.
    prefix: Vec<u8>,
    has_prefix: bool,
    valid: bool,
}

impl RocksIterator {
    pub(super) fn new(iterator: OwnedIterator, within_prefix: bool) -> RocksIterator {
        RocksIterator {
            iterator: Some(iterator),
            home: None,
            within_prefix,
            prefix: Vec::new(),
            has_prefix: false,
            valid: false,
        }
    }

    /// The iterator goes there when this one is dropped.
    pub(super) fn returning_to(mut self, home: Arc<IdleIterators>) -> RocksIterator {
        self.home = Some(home);
        self
    }

    fn native(&self) -> &OwnedIterator {
        self.iterator.as_ref().expect("an iterator lives until it is dropped")
    }

    fn native_mut(&mut self) -> &mut OwnedIterator {
        self.iterator.as_mut().expect("an iterator lives until it is dropped")
    }

    fn settle(&mut self) -> Result<bool> {
        let raw = self.native().raw();
        let mut valid = raw.valid();
        if !valid {
            raw.status().map_err(|error| self.native().note(error))?;
        } else if self.has_prefix {
            valid = raw
                .key()
                .and_then(crate::version_prefix)
                .is_some_and(|prefix| prefix == self.prefix.as_slice());
        }
        self.valid = valid;
        Ok(valid)
    }

    fn total_order(&self, what: &'static str) -> Result<()> {
        if self.within_prefix { Err(EngineError::Unsupported(what)) } else { Ok(()) }
    }
}

impl Drop for RocksIterator {
    fn drop(&mut self) {
        if let (Some(home), Some(iterator)) = (self.home.take(), self.iterator.take()) {
            home.put(iterator);
        }
    }
}

impl EngineIterator for RocksIterator {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.valid = false;
        if self.within_prefix {
            self.prefix.clear();
            let prefix = crate::version_prefix(key);
            self.has_prefix = prefix.is_some();
            self.prefix.extend_from_slice(prefix.unwrap_or_default());
        }
        self.native_mut().raw_mut().seek(key);
        self.settle()
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        self.native_mut().raw_mut().seek_for_prev(key);
        self.settle()
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.total_order("first entry of an unknown prefix")?;
        self.native_mut().raw_mut().seek_to_first();
        self.settle()
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        self.native_mut().raw_mut().seek_to_last();
        self.settle()
    }

    fn next(&mut self) -> Result<bool> {
        if !self.valid {
            return Ok(false);
        }
        self.native_mut().raw_mut().next();
        self.settle()
    }

    fn prev(&mut self) -> Result<bool> {
        self.total_order("walking back within a prefix")?;
        if !self.valid {
            return Ok(false);
        }
        self.native_mut().raw_mut().prev();
        self.settle()
    }

    fn valid(&self) -> bool {
        self.valid
    }

    fn key(&self) -> &[u8] {
        if self.valid { self.native().raw().key().unwrap_or_default() } else { &[] }
    }

    fn value(&self) -> &[u8] {
        if self.valid { self.native().raw().value().unwrap_or_default() } else { &[] }
    }

    fn entry(&self) -> (&[u8], &[u8]) {
        if self.valid { self.native().raw().item().unwrap_or_default() } else { (&[], &[]) }
    }
}
