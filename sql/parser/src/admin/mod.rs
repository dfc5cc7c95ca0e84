//! Rules of statements about sessions, transactions, accounts and the server.

mod account;
mod server;
mod set;
mod show;
mod transaction;
mod xa;
