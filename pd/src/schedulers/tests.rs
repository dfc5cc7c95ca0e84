//! Golden scripts: a situation, and the operator that follows.

use cairn_proto::pd::RegionHeartbeatRequest;
use goldenscript::{Command, Context, Runner};

use crate::config::ScheduleConfig;
use crate::hot::Now;
use crate::schedulers::scatter::{Group, scatter};
use crate::schedulers::{Decision, balance_leader, balance_region, hot_region, leaders};
use crate::testing::Situation;

#[derive(Default)]
struct Scripts {
    situation: Situation,
    group: Group,
    now: Now,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts { situation: Situation::new(), ..Scripts::default() }
    }

    /// `load 5 writes=10 reads=20`: thousands of keys or queries per second, reported
    /// for a while.
    fn load(&mut self, command: &Command) -> Result<(), Box<dyn std::error::Error>> {
        let mut args = command.consume_args();
        let id: u64 = args.next_pos().ok_or("no id")?.parse()?;
        let writes: u64 = args.take_key("writes").unwrap_or("0").parse()?;
        let reads: u32 = args.take_key("reads").unwrap_or("0").parse()?;
        let report = RegionHeartbeatRequest {
            written_keys: writes * 1_000,
            written_bytes: writes * 100_000,
            read_queries: reads * 1_000,
            read_bytes: u64::from(reads) * 100_000,
            interval_ms: 1_000,
            ..RegionHeartbeatRequest::default()
        };
        let config = ScheduleConfig::default();
        for _ in 0..400 {
            self.now.ms += 1_000;
            let mut hot = std::mem::take(&mut self.situation.hot);
            hot.observe(&self.situation.region(id), &report, (&config, self.now));
            self.situation.hot = hot;
        }
        args.reject_next()
    }
}

impl Runner for Scripts {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let cluster = &self.situation.cluster;
        let decision = match command.name.as_str() {
            "balance-leader" => {
                self.situation.with_regions(|regions| balance_leader::schedule(cluster, regions))
            }
            "balance-region" => {
                self.situation.with_regions(|regions| balance_region::schedule(cluster, regions))
            }
            "evict" => self.situation.with_regions(|regions| leaders::evict(cluster, regions)),
            "grant" => self.situation.with_regions(|regions| leaders::grant(cluster, regions)),
            "hot" => self.situation.with_regions(|regions| {
                hot_region::schedule(cluster, regions, &[], self.now.ms + 1_000_000)
            }),
            "scatter" => {
                let mut told = String::new();
                let mut group = std::mem::take(&mut self.group);
                for region in self.situation.regions() {
                    told += &match scatter(&region, &mut group, cluster) {
                        Ok(Some(operator)) => format!("{operator}\n"),
                        Ok(None) => format!("region {}: stays\n", region.id()),
                        Err(reason) => format!("region {}: {reason}\n", region.id()),
                    };
                }
                self.group = group;
                return Ok(told);
            }
            "load" => {
                self.load(command)?;
                return Ok(String::new());
            }
            "reset" => {
                *self = Scripts::new();
                return Ok(String::new());
            }
            _ => {
                self.situation.tell(command)?;
                return Ok(String::new());
            }
        };
        Ok(match decision {
            Decision::Do(operator) => format!("{operator}\n  {}", operator.reason),
            Decision::Idle(reason) => format!("idle: {reason}"),
        })
    }
}

fn run(script: &str) {
    let path = format!("src/schedulers/testscripts/{script}");
    goldenscript::run(&mut Scripts::new(), path).expect("the script holds");
}

#[test]
fn balance() {
    run("balance");
}

#[test]
fn leaders() {
    run("leaders");
}

#[test]
fn hot() {
    run("hot");
}

#[test]
fn scattering() {
    run("scatter");
}
