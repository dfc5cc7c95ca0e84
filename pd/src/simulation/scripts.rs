//! Golden scripts of small clusters: every operator in words.
//!
//! `stores 1 2 3 zone=a`, `regions 4 on=1,2,3 size=50`, `run 60`, `kill 2`, `offline 3`,
//! `up 3`, `set NAME VALUE`, `load 1 reads=20`; each answers the operators that began.

use cairn_proto::meta::StoreState;
use goldenscript::{Command, Context, Runner};

use super::{MIB, World};

struct Scripts {
    world: World,
    shown: usize,
    regions: u64,
}

impl Runner for Scripts {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        let mut args = command.consume_args();
        let world = &mut self.world;
        match command.name.as_str() {
            "reset" => *self = Scripts { world: World::new(), shown: 0, regions: 0 },
            "set" => {
                let name = args.next_pos().ok_or("no name")?;
                world.set(name, args.next_pos().ok_or("no value")?);
            }
            "regions" => {
                let count: u64 = args.next_pos().ok_or("no count")?.parse()?;
                let size: u64 = args.take_key("size").unwrap_or("10").parse()?;
                let on = args.take_key("on").ok_or("on which stores?")?.split(',');
                let on = on.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
                for _ in 0..count {
                    self.regions += 1;
                    world.add_region(self.regions, &on, size * MIB);
                }
            }
            "load" => {
                let id: u64 = args.next_pos().ok_or("no region")?.parse()?;
                let one = world.regions.get_mut(&id).ok_or("no such region")?;
                one.reads = args.take_key("reads").unwrap_or("0").parse()?;
                one.writes = args.take_key("writes").unwrap_or("0").parse()?;
            }
            "run" => world.run(args.next_pos().ok_or("how long?")?.parse()?),
            "show" => {
                return Ok(format!(
                    "peers {:?}\nleaders {:?}",
                    world.peers_by_store(),
                    world.leaders_by_store()
                ));
            }
            name => {
                let zone = args.take_key("zone").map(str::to_owned);
                while let Some(id) = args.next_pos() {
                    let id: u64 = id.parse()?;
                    match name {
                        "stores" => {
                            let labels = zone.as_deref().map(|zone| ("zone", zone));
                            world.add_store(id, &labels.into_iter().collect::<Vec<_>>());
                        }
                        "kill" => world.kill(id),
                        "revive" => world.revive(id),
                        "offline" => world.set_state(id, StoreState::Offline),
                        "up" => world.set_state(id, StoreState::Up),
                        "slow" => world.stores.get_mut(&id).ok_or("no store")?.slow_score = 100,
                        "stopping" => {
                            world.stores.get_mut(&id).ok_or("no store")?.is_stopping = true;
                        }
                        other => return Err(format!("unknown command {other}").into()),
                    }
                }
            }
        }
        let new = self.world.log[self.shown..].join("\n");
        self.shown = self.world.log.len();
        Ok(new)
    }
}

#[test]
fn small_clusters() {
    let path = "src/simulation/testscripts/small";
    let mut scripts = Scripts { world: World::new(), shown: 0, regions: 0 };
    goldenscript::run(&mut scripts, path).expect("the script holds");
}
