//! Golden scripts: tables in, pipelines over them, rows out.
//!
//! A script (see `testscripts/`) is made of these commands; arguments with blanks
//! stand in double quotes. `UPDATE_GOLDENFILES=1 cargo test` rewrites the answers.
//!
//! | command | meaning |
//! |---|---|
//! | `table NAME COLUMN/TYPE…` | a table; `COLUMN/TYPE/handle`, `…/partN`, `…/default=X` |
//! | `index NAME TABLE COLUMN… [unique]` | an index of a table |
//! | `insert TABLE VALUE…` | a row and its index entries |
//! | `remote TABLE HANDLE` | the row is led elsewhere |
//! | `memory BYTES [spill]` | the statement's quota; what it does not hold goes to disk, or is an error |
//! | `let NAME "PIPELINE"` | a pipeline by name, for joins and unions |
//! | `run "PIPELINE"` | runs it and prints its rows, and remote keys and warnings |
//!
//! A pipeline is steps joined by `|`; see [`pipeline`]. Columns are `#0`, `#1`, ….

mod expr_text;
mod pipeline;
mod tables;
mod window;

use std::collections::BTreeMap;
use std::error::Error;

use goldenscript::{Argument, Command, Context, Runner};

use self::pipeline::Session;

/// Runs one script.
struct Script {
    session: Session,
    runtime: tokio::runtime::Runtime,
    named: BTreeMap<String, String>,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let text = |argument: &Argument| match argument {
            Argument::Positional(value) => value.clone(),
            Argument::KeyValue(key, value) => format!("{key}={value}"),
            other => other.to_string(),
        };
        let args: Vec<String> = command.args.iter().map(text).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match command.name.as_str() {
            "table" => self.session.tables.create(&args)?,
            "index" => self.session.tables.create_index(&args)?,
            "insert" => self.session.tables.insert(&args)?,
            "remote" => self.session.tables.make_remote(&args)?,
            "memory" => {
                self.session.memory_limit = args[0].parse()?;
                self.session.spills = args.get(1) == Some(&"spill");
            }
            "let" => {
                self.named.insert(args[0].to_string(), args[1].to_string());
            }
            "run" => {
                let result = self.runtime.block_on(self.session.run(args[0], &self.named));
                return Ok(match result {
                    Ok(output) => output,
                    Err(error) => format!("error: {error}\n"),
                });
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(String::new())
    }
}

fn run_script(name: &str) {
    let mut script = Script {
        session: Session::default(),
        runtime: tokio::runtime::Builder::new_current_thread().build().expect("a runtime"),
        named: BTreeMap::new(),
    };
    let path = format!("src/testscripts/scripts/{name}");
    goldenscript::run(&mut script, path).expect("the script runs");
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run_script(stringify!($name));
        }
    )*};
}

scripts! {
    scans lookup filter_project aggregate stream_aggregate order hash_join broadcast index_join
    null_aware apply misc spill window recursive_union
}
