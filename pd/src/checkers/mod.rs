//! Checkers repair: one region and the cluster in, an operator out.

pub mod replica;
#[cfg(test)]
mod tests;
