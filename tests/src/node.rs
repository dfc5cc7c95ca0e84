//! One process of a cluster: found, killed and started again by its process id.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{HarnessError, eventually, tool};

/// How long a process may take until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a log an error shows.
const LOG_TAIL_BYTES: usize = 4_000;

/// The `cairn` to test: `CAIRN_BIN`, or the one built beside the tests.
pub fn cairn_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CAIRN_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("a program knows its own path");
    let folder = own.parent().expect("it lies in a folder");
    // Tests lie in a folder of the profile's folder, programs in that itself.
    let is_test = folder.file_name().is_some_and(|name| name == "deps");
    let folder = if is_test { folder.parent().expect("the profile's folder") } else { folder };
    folder.join("cairn")
}

/// A process that was started by this harness and serves.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// The words of its `ready` line.
    pub ready: Vec<String>,
}

impl Served {
    /// Starts the binary and waits for its `ready` line. Its output goes to `{log}.out` and
    /// `{log}.err`, so that it never blocks on a reader.
    pub async fn start(args: &[String], log: &Path) -> Result<Self, HarnessError> {
        let mut command = Command::new(cairn_binary());
        command.args(args);
        Self::start_command(command, args.join(" "), log).await
    }

    /// As [`Served::start`], for a command that becomes the binary.
    pub async fn start_command(
        mut command: Command,
        what: String,
        log: &Path,
    ) -> Result<Self, HarnessError> {
        let (out, err) = (log.with_extension("out"), log.with_extension("err"));
        let create = |path: &Path| {
            File::create(path)
                .map_err(|error| HarnessError::io(format!("create {}", path.display()), error))
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(create(&out)?)
            .stderr(create(&err)?)
            .spawn()
            .map_err(|error| {
                HarnessError::io(format!("start {}", cairn_binary().display()), error)
            })?;
        let ready = eventually(READY_TIMEOUT, || {
            let ended = !matches!(child.try_wait(), Ok(None));
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            async move {
                // Only whole lines count: the last one may be half written.
                let line = text.split_inclusive('\n').find(|line| line.starts_with("ready"));
                match line.filter(|line| line.ends_with('\n')) {
                    Some(line) => Some(Some(line.split_whitespace().map(str::to_owned).collect())),
                    None if ended => Some(None),
                    None => None,
                }
            }
        })
        .await
        .flatten();
        match ready {
            Some(ready) => Ok(Self { child, ready }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(HarnessError::NotReady { what, log: tail(&err) })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) -> Result<(), HarnessError> {
        tool("kill", &[&format!("-{name}"), &self.pid().to_string()], "").map(drop)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

/// A node of a cluster of processes. It was started by the playground, until it is killed and
/// started again; from then on this harness owns it.
#[derive(Debug)]
pub struct Node {
    /// `pd`, `kv` or `sql`.
    pub role: String,
    /// The arguments it was started with.
    pub args: Vec<String>,
    pid: u32,
    owned: Option<Served>,
}

impl Node {
    /// The nodes whose parent is `parent`, in the order they were started.
    pub fn children_of(parent: u32) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut nodes: Vec<Self> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| parent_of(*pid) == Some(parent))
            .filter_map(|pid| {
                let args = arguments_of(pid)?;
                let role = args.first()?.clone();
                Some(Self { role, args, pid, owned: None })
            })
            .collect();
        nodes.sort_by_key(|node| node.pid);
        nodes
    }

    /// Kills the process without letting it say goodbye (SIGKILL).
    pub fn kill(&mut self) {
        if self.owned.take().is_some() {
            return;
        }
        // The id may belong to somebody else by now: only the same command line is ours.
        if arguments_of(self.pid).as_ref() == Some(&self.args) {
            let _ = Command::new("kill").args(["-KILL", &self.pid.to_string()]).status();
        }
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) -> Result<(), HarnessError> {
        tool("kill", &[&format!("-{name}"), &self.pid.to_string()], "").map(drop)
    }

    /// Starts the process again with the arguments it had.
    pub async fn restart(&mut self, log: &Path) -> Result<(), HarnessError> {
        self.restart_with(self.args.clone(), log).await
    }

    /// As [`Node::restart`], with other arguments.
    pub async fn restart_with(
        &mut self,
        args: Vec<String>,
        log: &Path,
    ) -> Result<(), HarnessError> {
        self.kill();
        let gone = || async { (arguments_of(self.pid).as_ref() != Some(&self.args)).then_some(()) };
        eventually(GONE_TIMEOUT, gone).await.ok_or_else(|| HarnessError::NotReady {
            what: format!("process {} was killed but stays, so that its successor", self.pid),
            log: String::new(),
        })?;
        self.args = args;
        let served = Served::start(&self.args, log).await?;
        self.pid = served.pid();
        self.owned = Some(served);
        Ok(())
    }

    /// The words of the `ready` line, if this harness started the process.
    pub fn ready(&self) -> Option<&[String]> {
        self.owned.as_ref().map(|served| served.ready.as_slice())
    }
}

/// The parent of a process. The command's name, in parentheses, may hold anything.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The arguments of a living process, without the program itself.
fn arguments_of(pid: u32) -> Option<Vec<String>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8(line).ok()?;
    let args: Vec<String> =
        line.trim_end_matches('\0').split('\0').skip(1).map(str::to_owned).collect();
    (!args.is_empty()).then_some(args)
}
