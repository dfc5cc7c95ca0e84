//! What functions inside operators may read of, and do to, the session.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_expr::SessionAccess;
use cairn_types::{Datum, FieldType};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::UserVariables;
use crate::clock;

/// How often a sleeping statement looks whether it must stop.
const SLEEP_SLICE: Duration = Duration::from_millis(10);

/// Session state behind locks of its own.
#[derive(Debug, Default)]
pub struct SessionShared {
    user_variables: Mutex<UserVariables>,
    last_insert_id: AtomicU64,
    /// The running statement called `LAST_INSERT_ID(value)`.
    last_insert_id_given: AtomicBool,
    token: Mutex<CancellationToken>,
}

impl SessionShared {
    /// A statement begins; `SLEEP` ends when its token is cancelled.
    pub fn begin_statement(&self, token: CancellationToken) {
        self.set_token(token);
        self.last_insert_id_given.store(false, Ordering::Relaxed);
    }

    /// From here on the running statement ends with this token.
    pub fn set_token(&self, token: CancellationToken) {
        *self.token.lock() = token;
    }

    /// `LAST_INSERT_ID()`.
    pub fn last_insert_id(&self) -> u64 {
        self.last_insert_id.load(Ordering::Relaxed)
    }

    /// The value that the running statement gave to `LAST_INSERT_ID(value)`; 0: none.
    pub fn given_last_insert_id(&self) -> u64 {
        if self.last_insert_id_given.load(Ordering::Relaxed) { self.last_insert_id() } else { 0 }
    }

    /// Undoes the assignments of a statement that starts over.
    pub fn restore_user_variables(&self, variables: UserVariables) {
        *self.user_variables.lock() = variables;
    }

    /// All user variables, for `EXECUTE … USING` and system tables.
    pub fn user_variables(&self) -> UserVariables {
        self.user_variables.lock().clone()
    }
}

impl SessionAccess for SessionShared {
    fn user_var(&self, name: &str) -> Option<(Datum, FieldType)> {
        self.user_variables.lock().get(name).cloned()
    }

    fn set_user_var(&self, name: &str, value: &Datum, ty: &FieldType) {
        self.user_variables.lock().insert(name.to_owned(), (value.clone(), ty.clone()));
    }

    fn set_last_insert_id(&self, id: u64) {
        self.last_insert_id.store(id, Ordering::Relaxed);
        self.last_insert_id_given.store(true, Ordering::Relaxed);
    }

    fn sleep(&self, seconds: f64) -> bool {
        let token = self.token.lock().clone();
        let end = clock::monotonic_now()
            + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4);
        loop {
            if token.is_cancelled() {
                return true;
            }
            let left = end.saturating_duration_since(clock::monotonic_now());
            if left.is_zero() {
                return false;
            }
            // Functions are evaluated synchronously: the runtime must know that this
            // worker is away.
            tokio::task::block_in_place(|| clock::pause(left.min(SLEEP_SLICE)));
        }
    }

    fn clock_micros(&self) -> Option<i64> {
        Some(clock::unix_micros())
    }

    fn random(&self) -> u64 {
        u64::from_le_bytes(clock::random_bytes())
    }
}
