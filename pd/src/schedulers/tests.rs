//! Golden scripts: a situation, and the operator that follows.

use goldenscript::{Command, Context, Runner};

use crate::schedulers::{balance_leader, balance_region};
use crate::testing::Situation;

struct Scripts(Situation);

impl Runner for Scripts {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let regions = self.0.regions.iter().map(|told| told.view());
        let operator = match command.name.as_str() {
            "balance-leader" => balance_leader::schedule(&self.0.cluster, regions),
            "balance-region" => balance_region::schedule(&self.0.cluster, regions),
            "reset" => {
                self.0 = Situation::new();
                return Ok(String::new());
            }
            _ => {
                self.0.tell(command)?;
                return Ok(String::new());
            }
        };
        Ok(operator.map_or("nothing".to_owned(), |operator| operator.to_string()))
    }
}

#[test]
fn balance() {
    let path = "src/schedulers/testscripts/balance";
    goldenscript::run(&mut Scripts(Situation::new()), path).expect("the script holds");
}
