//! The slow log's files: appended to, renamed when full, read from the end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format::{ENTRY_START, SlowQuery};

/// A file of this size is renamed.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are read of both files, the newest.
const READ_BYTES_MAX: u64 = 32 << 20;
/// Entries that are read, the newest.
const READ_ENTRIES_MAX: usize = 20_000;

/// The file that is written.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    open: Option<File>,
}

impl LogFile {
    /// The file at `path`, which is opened when something is written.
    pub fn new(path: PathBuf) -> LogFile {
        LogFile { path, open: None }
    }

    /// Appends entries.
    pub fn append(&mut self, text: &str) -> io::Result<()> {
        let outcome = self.try_append(text);
        if outcome.is_err() {
            // The next one opens it anew: somebody may have made room, or moved it.
            self.open = None;
        }
        outcome
    }

    fn try_append(&mut self, text: &str) -> io::Result<()> {
        // A file that somebody took away is made again.
        if self.open.is_some() && !self.path.exists() {
            self.open = None;
        }
        let file = match &mut self.open {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        if file.metadata()?.len() > FILE_BYTES_MAX {
            std::fs::rename(&self.path, before(&self.path))?;
            *file = open(&self.path)?;
        }
        file.write_all(text.as_bytes())
    }
}

/// Statements are nobody's business but the server's.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The file before.
fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Entries of the file and of the one before it, newest first.
pub fn read(path: &Path) -> Vec<SlowQuery> {
    let mut left = READ_BYTES_MAX;
    let mut queries = Vec::new();
    for path in [path.to_owned(), before(path)] {
        let text = match read_end(&path, left) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the slow log cannot be read");
                continue;
            }
        };
        left = left.saturating_sub(text.len() as u64);
        let entries = entries(&text);
        queries.extend(entries.iter().rev().filter_map(|entry| SlowQuery::parse(entry)));
        if queries.len() >= READ_ENTRIES_MAX || left == 0 {
            break;
        }
    }
    queries.truncate(READ_ENTRIES_MAX);
    queries
}

/// The last bytes of a file.
fn read_end(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The entries of a text in order; what precedes the first is left out.
fn entries(text: &str) -> Vec<&str> {
    let starts_line = |at: &usize| *at == 0 || text.as_bytes()[*at - 1] == b'\n';
    let starts: Vec<usize> =
        text.match_indices(ENTRY_START).map(|(at, _)| at).filter(starts_line).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(n: i64) -> SlowQuery {
        SlowQuery {
            ended_us: n * 1_000_000,
            text: format!("SELECT {n}"),
            succeeded: true,
            ..SlowQuery::default()
        }
    }

    #[test]
    fn the_newest_is_read_first_over_both_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("slow.log");
        assert_eq!(read(&path), []);
        let mut file = LogFile::new(path.clone());
        file.append(&(query(1).to_text() + &query(2).to_text())).expect("written");
        std::fs::rename(&path, before(&path)).expect("renamed");
        file.append(&query(3).to_text()).expect("the file is made again");
        let texts: Vec<String> = read(&path).into_iter().map(|query| query.text).collect();
        assert_eq!(texts, ["SELECT 3", "SELECT 2", "SELECT 1"]);
    }

    #[test]
    fn half_an_entry_at_the_start_is_left_out() {
        let text = query(1).to_text() + &query(2).to_text();
        let cut = &text[20..];
        assert_eq!(entries(cut), [query(2).to_text()]);
    }
}
