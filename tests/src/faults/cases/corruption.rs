//! Bytes on a disk are not what was written.
//!
//! A store is killed, its files are changed, and it is started again. What a torn write leaves at
//! the end of the log is no damage. Anything else must be found by a checksum, and never be served:
//! the store refuses, or builds the replica anew from the others.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ledger_check, ledger_start};
use crate::HarnessError;
use crate::faults::cluster::{Cluster, Layout};
use crate::faults::{Case, Report, Stage};
use crate::pass;

/// How long writes go on before a store is killed.
const WRITES: Duration = Duration::from_secs(3);

/// The log ends with half a write.
pub const LOG_TAIL_TORN: Case = Case {
    name: "log-tail-torn",
    about: "kill -9 of a follower whose log then ends with a torn write: it comes back",
    quick: false,
    run: |stage| Box::pin(log_tail_torn(stage)),
};

/// A data file has a flipped bit.
pub const SST_BIT_FLIP: Case = Case {
    name: "sst-bit-flip",
    about: "kill -9 of a follower; bits of its data files are flipped, and it is started again: \
            nothing wrong is served, and it has healthy replicas in the end",
    quick: false,
    run: |stage| Box::pin(sst_bit_flip(stage)),
};

async fn log_tail_torn(stage: Stage) -> Result<Report, HarnessError> {
    /// Longer than the head of a record, shorter than a usual one.
    const TORN_BYTES: u64 = 57;
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    for round in 0..stage.settings.rounds(3) {
        pass(WRITES).await;
        let leader = cluster.leader_store().await?;
        let follower = cluster.followers_of(&leader).remove(0);
        cluster.node(&follower).kill();
        let newest = files_of(&cluster.node(&follower).data_dir.join("raft"), "raftlog")?.pop();
        let Some(path) = newest else { return Ok(Report::skip("the log has no files")) };
        tear(&path, TORN_BYTES + round)?;
        cluster.start_node(&follower).await?;
        cluster.wait_until_replicated(3).await?;
    }
    writers.stop().await;
    ledger_check(&mut report, &cluster, &told).await?;
    Ok(report)
}

async fn sst_bit_flip(stage: Stage) -> Result<Report, HarnessError> {
    let mut report = Report::default();
    let mut cluster = Cluster::start(&stage.folder, Layout::default()).await?;
    let (told, writers) = ledger_start(&cluster, stage.settings.seed).await?;
    pass(WRITES).await;
    let leader = cluster.leader_store().await?;
    let hurt = cluster.followers_of(&leader).remove(0);
    // What was in memory is in data files after a start.
    cluster.node(&hurt).kill();
    cluster.start_node(&hurt).await?;
    cluster.wait_until_replicated(3).await?;
    pass(WRITES).await;
    cluster.node(&hurt).kill();
    let files = files_of(&cluster.node(&hurt).data_dir.join("db"), "sst")?;
    report.tell("files", files.len());
    for path in &files {
        flip(path)?;
    }
    match cluster.start_node(&hurt).await {
        Ok(()) => {
            // The others may not be asked: what the hurt store serves is what counts.
            cluster.node(&leader).kill();
            pass(WRITES).await;
            cluster.start_node(&leader).await?;
            let healed = cluster.wait_until_replicated(3).await;
            report.holds("three healthy replicas", healed.is_ok());
        }
        Err(error) => {
            // The operator gives the store an empty disk; until then the others serve.
            report.tell("it starts", "no");
            let log = error.to_string();
            let names_file = files.iter().any(|path| log.contains(&path.display().to_string()));
            report.holds("it names the file", names_file);
            report.holds("writes go on", told.await_writes(20, WRITES).await);
        }
    }
    writers.stop().await;
    ledger_check(&mut report, &cluster, &told).await?;
    Ok(report)
}

/// Files with an extension, the one changed last at the end.
fn files_of(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, HarnessError> {
    let failed = |error| HarnessError::io(format!("read {}", folder.display()), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            let changed = path.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
            files.push((changed, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Lets a file go on with bytes that are no record.
fn tear(path: &Path, bytes: u64) -> Result<(), HarnessError> {
    let failed = |error| HarnessError::io(format!("tear {}", path.display()), error);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let end = used_bytes(path)?;
    file.write_all_at(&vec![0xa5; bytes as usize], end).map_err(failed)
}

/// Where the bytes of a file end that are not zero: logs are made longer before they are written.
fn used_bytes(path: &Path) -> Result<u64, HarnessError> {
    let bytes = std::fs::read(path)
        .map_err(|error| HarnessError::io(format!("read {}", path.display()), error))?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1))
}

/// Flips a bit in the first third of a file, where its data lies.
fn flip(path: &Path) -> Result<(), HarnessError> {
    let failed = |error| HarnessError::io(format!("flip a bit of {}", path.display()), error);
    let file: File = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let at = file.metadata().map_err(failed)?.len() / 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).map_err(failed)?;
    file.write_all_at(&[byte[0] ^ 0x10], at).map_err(failed)
}
