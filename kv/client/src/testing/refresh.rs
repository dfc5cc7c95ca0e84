//! Refresh of the cluster in memory.

use cairn_proto::kv::*;

use super::{Inner, locked};

impl Inner {
    pub(super) fn refresh(&self, request: &RefreshRequest) -> RefreshResponse {
        let mut response = RefreshResponse::default();
        for span in &request.spans {
            let holds =
                |key: &[u8]| key >= &span.start[..] && (span.end.is_empty() || key < &span.end[..]);
            let locks = self.locks.iter().filter(|(key, lock)| {
                holds(key) && lock.start_ts != request.start_ts && !lock.is_pessimistic
            });
            for (key, lock) in locks {
                if let Some(key_error::Kind::Locked(lock)) = locked(key, lock).kind {
                    response.locks.push(lock);
                }
            }
            let changed =
                self.versions.iter().filter(|(key, _)| holds(key)).find_map(|(key, all)| {
                    let is_new =
                        |commit_ts| span.read_ts < commit_ts && commit_ts <= request.refresh_ts;
                    all.iter()
                        .find(|version| is_new(version.commit_ts))
                        .map(|version| (key, version))
                });
            if let Some((key, version)) = changed {
                let conflict = WriteConflict {
                    key: key.clone(),
                    conflict_start_ts: version.start_ts,
                    conflict_commit_ts: version.commit_ts,
                    ..WriteConflict::default()
                };
                response.error = Some(KeyError { kind: Some(key_error::Kind::Conflict(conflict)) });
                return response;
            }
            response.spans_done += 1;
        }
        response
    }
}
