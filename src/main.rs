//! The one binary: command line, configuration and the wiring of roles.

fn main() {}
