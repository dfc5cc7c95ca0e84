//! Transfers between accounts. Money is neither made nor lost: every few transactions one reads
//! the sum of all balances, which must be what it was at the beginning, in every snapshot.

use std::sync::Arc;

use clap::Args;
use rand::Rng;
use rand::rngs::StdRng;

use crate::client::{Client, values};
use crate::error::{BenchError, Failure};
use crate::load::Batches;
use crate::options::{Action, SharedArgs};
use crate::random::{Stream, generator};
use crate::workload::{Condition, Drawn, Outcome, Session, Table, Workload};

/// What every account begins with.
const OPENING_BALANCE: i64 = 1_000;
/// Largest sum of one transfer.
const TRANSFER_MAX: i64 = 100;
/// Kinds.
const KINDS: &[&str] = &["transfer", "sum"];
const TRANSFER: usize = 0;
const SUM: usize = 1;

/// `cairn bench bank`.
#[derive(Clone, Debug, Args)]
pub struct BankArgs {
    /// What to do.
    #[arg(value_enum, default_value_t)]
    pub action: Action,
    /// Options of every workload.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Accounts to make; a run takes those that are there.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..=1_000_000_000))]
    pub accounts: u64,
    /// Share of transactions that read the sum of all accounts, in percent.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub sum_percent: u32,
}

/// The workload.
#[derive(Debug)]
pub struct Bank {
    accounts: u64,
    sum_percent: u32,
    seed: u64,
}

/// Accounts that one job of loading makes.
const ACCOUNTS_PER_JOB: u64 = 10_000;

impl Bank {
    /// With the sizes of the options.
    pub fn new(args: &BankArgs) -> Result<Self, BenchError> {
        Ok(Self { accounts: args.accounts, sum_percent: args.sum_percent, seed: args.shared.seed })
    }

    /// What all balances add up to.
    fn total(&self) -> i64 {
        self.accounts as i64 * OPENING_BALANCE
    }
}

impl Workload for Bank {
    type Session = BankSession;

    fn name(&self) -> String {
        "bank".to_owned()
    }

    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn tables(&self) -> Vec<Table> {
        let create = "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)";
        vec![Table { name: "accounts", create: create.to_owned() }]
    }

    fn load_jobs(&self) -> usize {
        self.accounts.div_ceil(ACCOUNTS_PER_JOB) as usize
    }

    async fn load(&self, job: usize, rows: &mut Batches) -> Result<(), Failure> {
        let first = job as u64 * ACCOUNTS_PER_JOB;
        for id in first..(first + ACCOUNTS_PER_JOB).min(self.accounts) {
            rows.row("accounts (id, balance)", format!("{id},{OPENING_BALANCE}")).await?;
        }
        Ok(())
    }

    async fn look(&mut self, client: &mut Client) -> Result<(), BenchError> {
        let counted = client.query::<u64>("SELECT COUNT(*) FROM accounts").await;
        let counted = counted.map_err(BenchError::failed("counting accounts"))?;
        self.accounts = counted.first().copied().unwrap_or(0);
        match self.accounts {
            0 | 1 => Err(BenchError::Options("no accounts: `prepare` makes them".to_owned())),
            _ => Ok(()),
        }
    }

    fn session(self: &Arc<Self>, number: usize) -> BankSession {
        BankSession {
            rng: generator(self.seed, Stream::Session(number)),
            bank: Arc::clone(self),
            inputs: Inputs::Sum,
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let total = self.total();
        vec![
            Condition {
                name: "sum",
                meaning: "all balances add up to what the accounts began with",
                violations: format!(
                    "SELECT COUNT(*) FROM (SELECT SUM(balance) AS total FROM accounts) AS s \
                     WHERE total IS NULL OR total <> {total}"
                ),
            },
            Condition {
                name: "overdraft",
                meaning: "no account is overdrawn",
                violations: "SELECT COUNT(*) FROM accounts WHERE balance < 0".to_owned(),
            },
        ]
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "accounts": self.accounts, "sum_percent": self.sum_percent })
    }
}

/// What was drawn.
#[derive(Debug)]
enum Inputs {
    Sum,
    Transfer { from: u64, to: u64, amount: i64 },
}

/// One connection.
#[derive(Debug)]
pub struct BankSession {
    bank: Arc<Bank>,
    rng: StdRng,
    inputs: Inputs,
}

impl Session for BankSession {
    fn draw(&mut self) -> Option<Drawn> {
        if self.rng.random_range(0..100) < self.bank.sum_percent {
            self.inputs = Inputs::Sum;
            return Some(Drawn::at_once(SUM));
        }
        let from = self.rng.random_range(0..self.bank.accounts);
        // Any account but that one.
        let step = self.rng.random_range(1..self.bank.accounts);
        self.inputs = Inputs::Transfer {
            from,
            to: (from + step) % self.bank.accounts,
            amount: self.rng.random_range(1..=TRANSFER_MAX),
        };
        Some(Drawn::at_once(TRANSFER))
    }

    async fn execute(&mut self, client: &mut Client, _retried: bool) -> Result<Outcome, Failure> {
        match self.inputs {
            Inputs::Sum => self.sum(client).await,
            Inputs::Transfer { from, to, amount } => transfer(client, from, to, amount).await,
        }
    }
}

impl BankSession {
    /// Reads the sum of all balances.
    async fn sum(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let (count, total): (u64, i64) =
            client.one("SELECT COUNT(*), SUM(balance) FROM accounts", values![]).await?;
        let expected = (self.bank.accounts, self.bank.total());
        if (count, total) != expected {
            return Err(Failure::Wrong(format!(
                "{count} accounts hold {total} together instead of {expected:?}"
            )));
        }
        Ok(Outcome::Committed)
    }
}

/// Moves money, if there is enough.
async fn transfer(
    client: &mut Client,
    from: u64,
    to: u64,
    amount: i64,
) -> Result<Outcome, Failure> {
    client.begin().await?;
    // Both rows at once, so that no two transfers wait for each other.
    let rows = client
        .rows("SELECT id, balance FROM accounts WHERE id IN (?, ?) FOR UPDATE", values![from, to])
        .await?;
    if rows.len() != 2 {
        return Err(Failure::Wrong(format!("{} of accounts {from} and {to}", rows.len())));
    }
    for row in rows {
        let (id, balance): (u64, i64) = crate::client::columns(row)?;
        if id == from && balance < amount {
            client.roll_back().await?;
            return Ok(Outcome::RolledBack);
        }
    }
    let change = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
    client.change(change, values![-amount, from]).await?;
    client.change(change, values![amount, to]).await?;
    client.commit().await?;
    Ok(Outcome::Committed)
}
