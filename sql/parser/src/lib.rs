//! MySQL syntax: the dialect, our own statement layer and Cairn's syntax tree.

pub mod ast;
