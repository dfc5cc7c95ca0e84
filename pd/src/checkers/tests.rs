//! Golden scripts: a situation, and the operator that follows.

use goldenscript::{Command, Context, Runner};

use crate::checkers::replica;
use crate::testing::Situation;

struct Scripts(Situation);

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
                let lines = self.0.regions.iter().map(|told| {
                    match replica::check(&told.view(), &self.0.cluster) {
                        Some(operator) => format!("{operator}\n"),
                        None => format!("region {}: nothing\n", told.view().region.id),
                    }
                });
                return Ok(lines.collect());
            }
            _ => self.0.tell(command)?,
        }
        Ok(String::new())
    }
}

#[test]
fn replica_checker() {
    let path = "src/checkers/testscripts/replica";
    goldenscript::run(&mut Scripts(Situation::new()), path).expect("the script holds");
}
