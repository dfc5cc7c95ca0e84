//! What must hold: judged while a run goes on and when it has come to rest.

pub mod replicas;
