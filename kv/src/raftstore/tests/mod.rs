//! Whole stores in one process: first driven by hand, at last by their threads.

mod chaos;
mod chaos_merge;
mod cluster;
mod damage;
mod disk_full;
mod followers;
mod forced;
mod joint;
mod merge;
mod replication;
mod restart;
mod resting;
mod sizes;
mod threads;
