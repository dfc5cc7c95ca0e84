//! Every option of every role. A value comes from, in this order: the command line, the
//! environment (`CAIRN_…`), the section of the role in the TOML file (`--config`), the
//! default. Keys of the file are the long names with `_` for `-`; an unknown one is an
//! error that names it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cairn_bench::BenchArgs;
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::ctl::options::{
    ConfigAction, HotAction, OperatorAction, RecoverAction, RegionAction, RuleAction,
    SchedulerAction, StoreAction,
};
use crate::error::StartError;
use crate::logging::LogFormat;

/// Cairn: a distributed SQL database server that speaks MySQL.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, about, max_term_width = 100)]
pub struct Options {
    /// TOML file with a section per role.
    #[arg(long, global = true, env = "CAIRN_CONFIG")]
    pub config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as `cairn_kv=debug,info`.
    #[arg(long, global = true, env = "CAIRN_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, env = "CAIRN_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

impl Options {
    /// The options of logging, for processes that shall log alike.
    pub fn log_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(level) = &self.log_level {
            arguments.extend(["--log-level".to_owned(), level.clone()]);
        }
        arguments.extend(["--log-format".to_owned(), self.log_format.to_string()]);
        arguments
    }
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole cluster on this machine, for trying and testing.
    Playground(PlaygroundArgs),
    /// A placement driver.
    Pd(PdArgs),
    /// A store of the key-value tier.
    Kv(KvArgs),
    /// A SQL node.
    Sql(SqlArgs),
    /// Look at and steer a running cluster.
    Ctl(CtlArgs),
    /// Put load on a server that speaks MySQL, and measure it.
    Bench(BenchArgs),
}

/// The file's sections.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    playground: Option<PlaygroundArgs>,
    pd: Option<PdArgs>,
    kv: Option<KvArgs>,
    sql: Option<SqlArgs>,
}

impl Command {
    /// Fills what the command line and the environment left open from the file.
    pub fn with_file(self, path: Option<&Path>) -> Result<Self, StartError> {
        let Some(path) = path else { return Ok(self) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| StartError::io(format!("cannot read {}", path.display()), error))?;
        let file: File = toml::from_str(&text)
            .map_err(|error| StartError::Config(format!("{}: {error}", path.display())))?;
        Ok(match self {
            Command::Playground(args) => Command::Playground(args.or(file.playground)),
            Command::Pd(args) => Command::Pd(args.or(file.pd)),
            Command::Kv(args) => Command::Kv(args.or(file.kv)),
            Command::Sql(args) => Command::Sql(args.or(file.sql)),
            Command::Ctl(args) => Command::Ctl(args),
            Command::Bench(args) => Command::Bench(args),
        })
    }
}

/// Defines a role's options: each an `Option`, settable by flag, environment and file.
macro_rules! layered_options {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty, $env:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Args, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[arg(long, env = $env)]
                pub $field: Option<$ty>,
            )*
        }

        impl $name {
            /// Takes from `file` what is not given yet.
            fn or(self, file: Option<Self>) -> Self {
                let file = file.unwrap_or_default();
                Self { $($field: self.$field.or(file.$field),)* }
            }
        }
    };
}

layered_options! {
    /// `cairn playground`.
    PlaygroundArgs {
        /// Stores; three or more keep three replicas of everything. Default 1.
        kv: usize, "CAIRN_PLAYGROUND_KV";
        /// Members of the placement driver: 1, 3 or 5. Default 1.
        pd: usize, "CAIRN_PLAYGROUND_PD";
        /// SQL nodes; the second listens on the next port, and so on. Default 1.
        sql: usize, "CAIRN_PLAYGROUND_SQL";
        /// Address to listen on. Default 127.0.0.1.
        host: std::net::IpAddr, "CAIRN_PLAYGROUND_HOST";
        /// Port of the first SQL node; 0 takes a free one. Default 4000.
        port: u16, "CAIRN_PLAYGROUND_PORT";
        /// Port of the first SQL node's status; 0 takes a free one. Default 10080.
        status_port: u16, "CAIRN_PLAYGROUND_STATUS_PORT";
        /// Port of the first member of the placement driver with --processes; the second
        /// listens on the next port, and so on; 0 takes free ones. Default 2379.
        pd_port: u16, "CAIRN_PLAYGROUND_PD_PORT";
        /// Port of the first store with --processes; 0 takes free ones. Default 20160.
        kv_port: u16, "CAIRN_PLAYGROUND_KV_PORT";
        /// Folder to keep the data in. Without it a temporary one is used and removed.
        data_dir: PathBuf, "CAIRN_PLAYGROUND_DATA_DIR";
        /// Run every node as a process of its own.
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        processes: bool, "CAIRN_PLAYGROUND_PROCESSES";
        /// Size at which a region is split, in bytes. Default 256 MiB.
        region_split_bytes: u64, "CAIRN_PLAYGROUND_REGION_SPLIT_BYTES";
        /// Block cache of each store, in bytes. Default 256 MiB in all.
        block_cache_bytes: usize, "CAIRN_PLAYGROUND_BLOCK_CACHE_BYTES";
        /// Folder of temporary files. Default: the system's.
        tmp_storage_path: PathBuf, "CAIRN_PLAYGROUND_TMP_STORAGE_PATH";
        /// Temporary files of all statements of a SQL node together, in bytes; 0: no limit.
        tmp_storage_quota: u64, "CAIRN_PLAYGROUND_TMP_STORAGE_QUOTA";
        /// Let accounts without a password in from beyond this machine.
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        insecure: bool, "CAIRN_PLAYGROUND_INSECURE";
        /// Default of tidb_gc_life_time, in seconds. Default 600.
        gc_life_time_s: u64, "CAIRN_PLAYGROUND_GC_LIFE_TIME_S";
        /// Default of tidb_gc_run_interval, in seconds. Default 600.
        gc_run_interval_s: u64, "CAIRN_PLAYGROUND_GC_RUN_INTERVAL_S";
    }
}

layered_options! {
    /// `cairn pd`.
    PdArgs {
        /// Name of this member. Default pd-1.
        name: String, "CAIRN_PD_NAME";
        /// Folder of its log. Required.
        data_dir: PathBuf, "CAIRN_PD_DATA_DIR";
        /// Address to listen on and be reached at. Default 127.0.0.1:2379.
        addr: SocketAddr, "CAIRN_PD_ADDR";
        /// The members that begin a cluster together, this one among them, as
        /// NAME=HOST:PORT,NAME=HOST:PORT,…; each is started with the same list. Later only
        /// the addresses count. Default: it begins alone.
        initial_cluster: String, "CAIRN_PD_INITIAL_CLUSTER";
        /// Addresses of members of a running cluster, separated by commas: this one joins
        /// it, at first without a vote.
        join: String, "CAIRN_PD_JOIN";
        /// Address of `/metrics`, `/status` and `/health`. Default: none.
        status_addr: SocketAddr, "CAIRN_PD_STATUS_ADDR";
        /// Replicas of every region. Default 3.
        max_replicas: usize, "CAIRN_PD_MAX_REPLICAS";
    }
}

layered_options! {
    /// `cairn kv`.
    KvArgs {
        /// Folder of engines and log. Required.
        data_dir: PathBuf, "CAIRN_KV_DATA_DIR";
        /// Address to listen on and be reached at. Default 127.0.0.1:20160.
        addr: SocketAddr, "CAIRN_KV_ADDR";
        /// Address of `/metrics`, `/status` and `/health`. Default: none.
        status_addr: SocketAddr, "CAIRN_KV_STATUS_ADDR";
        /// Addresses of the placement drivers, separated by commas. Default 127.0.0.1:2379.
        pd: String, "CAIRN_KV_PD";
        /// Where the store stands: zone=z1,host=h1.
        labels: String, "CAIRN_KV_LABELS";
        /// Size at which a region is split, in bytes. Default 256 MiB.
        region_split_bytes: u64, "CAIRN_KV_REGION_SPLIT_BYTES";
        /// Keys (versions of them) at which a region is split. Default 2560000.
        region_split_keys: u64, "CAIRN_KV_REGION_SPLIT_KEYS";
        /// Requests per second at which a region is split for its load; 0: never. Default 7000.
        split_qps_threshold: u64, "CAIRN_KV_SPLIT_QPS_THRESHOLD";
        /// Bytes per second at which a region is split for its load; 0: never. Default 100 MiB.
        split_byte_threshold: u64, "CAIRN_KV_SPLIT_BYTE_THRESHOLD";
        /// RocksDB's block cache, in bytes.
        block_cache_bytes: usize, "CAIRN_KV_BLOCK_CACHE_BYTES";
        /// Disk space kept free for deletions when the disk fills up, in bytes. Default a
        /// twentieth of the disk, at most 2 GiB.
        reserve_bytes: u64, "CAIRN_KV_RESERVE_BYTES";
    }
}

layered_options! {
    /// `cairn sql`.
    SqlArgs {
        /// Address MySQL clients connect to. Default 127.0.0.1:4000.
        addr: SocketAddr, "CAIRN_SQL_ADDR";
        /// Address of `/metrics`, `/status` and `/health`. Default 127.0.0.1:10080.
        status_addr: SocketAddr, "CAIRN_SQL_STATUS_ADDR";
        /// Addresses of the placement drivers, separated by commas. Default 127.0.0.1:2379.
        pd: String, "CAIRN_SQL_PD";
        /// Where the node stands: zone=z1. Reads from the closest replicas look for stores with the
        /// same zone.
        labels: String, "CAIRN_SQL_LABELS";
        /// Most connections at a time. Default 1000.
        max_connections: usize, "CAIRN_SQL_MAX_CONNECTIONS";
        /// Default of tidb_server_memory_limit, in bytes. Default: 80 % of the machine's memory.
        memory_limit_bytes: u64, "CAIRN_SQL_MEMORY_LIMIT_BYTES";
        /// Folder of temporary files. Default: the system's.
        tmp_storage_path: PathBuf, "CAIRN_SQL_TMP_STORAGE_PATH";
        /// Temporary files of all statements together, in bytes; 0: no limit.
        tmp_storage_quota: u64, "CAIRN_SQL_TMP_STORAGE_QUOTA";
        /// File of the slow log; when it is full it becomes one with ".1" behind its name. Default: one
        /// in the folder of temporary files, named after the port.
        slow_log_path: PathBuf, "CAIRN_SQL_SLOW_LOG_PATH";
        /// Let accounts without a password in from beyond this machine.
        #[arg(num_args = 0..=1, default_missing_value = "true")]
        insecure: bool, "CAIRN_SQL_INSECURE";
        /// Default of tidb_gc_life_time, in seconds; SET takes ten minutes or more, this also
        /// less. Default 600.
        gc_life_time_s: u64, "CAIRN_SQL_GC_LIFE_TIME_S";
        /// Default of tidb_gc_run_interval, in seconds, as above. Default 600.
        gc_run_interval_s: u64, "CAIRN_SQL_GC_RUN_INTERVAL_S";
    }
}

impl PlaygroundArgs {
    /// Whether every node is a process of its own.
    pub fn processes(&self) -> bool {
        self.processes.unwrap_or(false)
    }

    /// How many nodes of each role, checked.
    pub fn counts(&self) -> Result<Counts, StartError> {
        /// More nodes than anybody tries on one machine.
        const NODES_MAX: usize = 64;
        let counts = Counts {
            stores: self.kv.unwrap_or(1),
            sql_nodes: self.sql.unwrap_or(1),
            pd_members: self.pd.unwrap_or(1),
        };
        if ![1, 3, 5].contains(&counts.pd_members) {
            return Err(StartError::Config(format!(
                "--pd {}: must be 1, 3 or 5; an even number survives no more losses",
                counts.pd_members
            )));
        }
        for (name, count) in [("--kv", counts.stores), ("--sql", counts.sql_nodes)] {
            if !(1..=NODES_MAX).contains(&count) {
                return Err(StartError::Config(format!(
                    "{name} {count}: must be 1 to {NODES_MAX}"
                )));
            }
        }
        Ok(counts)
    }
}

/// How many nodes of each role a playground has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Stores.
    pub stores: usize,
    /// SQL nodes.
    pub sql_nodes: usize,
    /// Members of the placement driver.
    pub pd_members: usize,
}

/// `cairn ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// Addresses of the placement drivers, separated by commas.
    #[arg(long, env = "CAIRN_CTL_PD", default_value = "127.0.0.1:2379")]
    pub pd: String,
    /// JSON for scripts instead of tables for people.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What `ctl` does.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Members of the placement driver; without an action, a list of them.
    Member {
        /// What to do with one.
        #[command(subcommand)]
        action: Option<MemberAction>,
    },
    /// Stores of the cluster; what becomes of one.
    Store {
        /// Only this one.
        id: Option<u64>,
        /// What to do with it.
        #[command(subcommand)]
        action: Option<StoreAction>,
    },
    /// Regions with their leaders and peers.
    Region {
        /// Only this one.
        id: Option<u64>,
        /// How to find them.
        #[command(subcommand)]
        action: Option<RegionAction>,
    },
    /// What the placement driver is doing to regions, did, or shall do.
    Operator {
        /// Those under way when absent.
        #[command(subcommand)]
        action: Option<OperatorAction>,
    },
    /// Schedulers: what balances the cluster.
    Scheduler {
        /// All of them when absent.
        #[command(subcommand)]
        action: Option<SchedulerAction>,
    },
    /// Placement rules: how many replicas go where.
    Rule {
        /// All of them when absent.
        #[command(subcommand)]
        action: Option<RuleAction>,
    },
    /// Hot regions.
    Hot {
        /// Of reads, writes, or before.
        #[command(subcommand)]
        action: HotAction,
    },
    /// Go on after a disaster.
    Recover {
        /// What is lost.
        #[command(subcommand)]
        action: RecoverAction,
    },
    /// A timestamp, or what one means.
    Tso {
        /// The timestamp to take apart; a fresh one when absent.
        timestamp: Option<u64>,
    },
    /// Settings of scheduling, shown and changed.
    Config {
        /// All of them when absent.
        #[command(subcommand)]
        action: Option<ConfigAction>,
    },
}

/// What `ctl member` does.
#[derive(Debug, Subcommand)]
pub enum MemberAction {
    /// The member that leads.
    Leader,
    /// Take a member out for good.
    Remove {
        /// Name or id.
        member: String,
    },
    /// Let another member lead.
    Transfer {
        /// Name or id.
        member: String,
    },
}

/// Splits a list of addresses.
pub fn endpoints(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Parses `key=value,key=value`, the value of that option.
pub fn pairs(option: &str, text: &str) -> Result<Vec<(String, String)>, StartError> {
    let parse = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            StartError::Config(format!("{option}: '{part}' is not of the form key=value"))
        })?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Command {
        Options::try_parse_from([&["cairn"], args].concat()).expect("known options").command
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cairn.toml");
        std::fs::write(&path, "[kv]\naddr = '127.0.0.1:1'\npd = 'a:1,b:2'\n").expect("written");
        let command = parse(&["kv", "--addr", "127.0.0.1:9", "--data-dir", "/x"]);
        let Command::Kv(args) = command.with_file(Some(&path)).expect("a correct file") else {
            panic!("the role stays")
        };
        assert_eq!(args.addr, Some("127.0.0.1:9".parse().expect("an address")));
        assert_eq!(endpoints(&args.pd.expect("from the file")), ["a:1", "b:2"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cairn.toml");
        std::fs::write(&path, "[sql]\nadress = '127.0.0.1:1'\n").expect("written");
        let error = parse(&["sql"]).with_file(Some(&path)).expect_err("a typo");
        assert!(error.to_string().contains("adress"), "{error}");
    }

    #[test]
    fn labels_are_pairs() {
        let parsed = pairs("--labels", "zone=z1, host=h1").expect("two labels");
        assert_eq!(parsed[1], ("host".to_owned(), "h1".to_owned()));
        let error = pairs("--labels", "zone").expect_err("no value");
        assert!(error.to_string().contains("--labels"), "{error}");
    }

    #[test]
    fn members_of_the_placement_driver_are_odd() {
        let counts = |pd: &str| match parse(&["playground", "--pd", pd]) {
            Command::Playground(args) => args.counts(),
            _ => panic!("the role stays"),
        };
        assert_eq!(counts("3").expect("three").pd_members, 3);
        assert!(counts("2").is_err() && counts("0").is_err());
    }

    #[test]
    fn members_are_listed_or_acted_upon() {
        let member = |words: &[&str]| match parse(&[&["ctl", "member"], words].concat()) {
            Command::Ctl(CtlArgs { command: CtlCommand::Member { action }, .. }) => action,
            _ => panic!("the role stays"),
        };
        assert!(member(&[]).is_none());
        let Some(MemberAction::Remove { member: named }) = member(&["remove", "pd-2"]) else {
            panic!("an action")
        };
        assert_eq!(named, "pd-2");
    }
}
