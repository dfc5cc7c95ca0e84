//! Golden scripts: a situation, and what the checkers make of it.

use goldenscript::{Command, Context, Runner};

use crate::checkers::{self, Verdict, merge, split};
use crate::testing::Situation;

struct Scripts(Situation);

impl Scripts {
    fn merges(&self) -> String {
        let lines = self.0.regions().map(|region| {
            let candidates = merge::Candidates {
                source: region,
                neighbours: self.0.neighbours(region.id()),
                split_bytes: 0,
                now_ms: 10_000_000,
            };
            match merge::check(&candidates, |id| self.0.hot.is_hot(id), &self.0.cluster) {
                Some((gives, takes)) => format!("{gives}\n{takes}\n"),
                None => format!("region {}: nothing\n", region.id()),
            }
        });
        lines.collect()
    }
}

impl Runner for Scripts {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        match command.name.as_str() {
            "reset" => self.0 = Situation::new(),
            "check" => {
                let lines = self.0.regions().map(|region| {
                    match checkers::repair(&region, &self.0.cluster) {
                        Verdict::Well => format!("region {}: well\n", region.id()),
                        Verdict::Waits(reason) => format!("region {}: {reason}\n", region.id()),
                        Verdict::Needs(operator) => {
                            let priority = operator.priority.name();
                            format!("{operator}\n  {priority}: {}\n", operator.reason)
                        }
                    }
                });
                return Ok(lines.collect());
            }
            "borders" => {
                let lines =
                    self.0.regions().map(|region| match split::check(&region, &self.0.cluster) {
                        Some(operator) => format!("{operator}\n"),
                        None => format!("region {}: nothing\n", region.id()),
                    });
                return Ok(lines.collect());
            }
            "merges" => return Ok(self.merges()),
            _ => self.0.tell(command)?,
        }
        Ok(String::new())
    }
}

fn run(script: &str) {
    let path = format!("src/checkers/testscripts/{script}");
    goldenscript::run(&mut Scripts(Situation::new()), path).expect("the script holds");
}

#[test]
fn replicas() {
    run("replica");
}

#[test]
fn placement_rules() {
    run("rules");
}

#[test]
fn merges() {
    run("merge");
}
