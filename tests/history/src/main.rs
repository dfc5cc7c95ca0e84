//! Judges histories that were written down: `cairn-history FILE…`.

use std::process::ExitCode;

use cairn_history::lists::{check, notation};

fn main() -> ExitCode {
    let mut all_fit = true;
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let history =
            text.and_then(|text| notation::read(&text).map_err(|error| error.to_string()));
        match history {
            Ok(history) => {
                let violations = check(&history);
                println!("{path}: {} transactions, {} anomalies", history.len(), violations.len());
                violations.iter().for_each(|violation| println!("  {violation}"));
                all_fit &= violations.is_empty();
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                all_fit = false;
            }
        }
    }
    if all_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
