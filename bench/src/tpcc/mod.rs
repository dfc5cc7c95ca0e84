//! TPC-C, revision 5.11: a wholesale supplier with warehouses, districts, customers and orders;
//! five kinds of transactions.
//!
//! | file | what it holds |
//! |---|---|
//! | `schema.rs`, `load.rs` | tables and initial population |
//! | `random.rs` | NURand, last names and texts |
//! | `new_order.rs`, `payment.rs`, `order_status.rs`, `delivery.rs`, `stock_level.rs` | the transactions |
//! | `customer.rs` | finding a customer by number or last name |
//! | `check.rs` | the consistency conditions |
//!
//! Each connection is a terminal with a home warehouse (several, if there are more warehouses than
//! connections). Without `--wait` it sends one transaction after the other, and the
//! deliveries that the standard queues are executed at once. What the standard asks of a
//! published result besides (ramp-up, durability tests, pricing, 10 terminals per warehouse) is
//! left to the user.

mod check;
mod customer;
mod delivery;
mod load;
mod new_order;
mod order_status;
mod payment;
mod random;
mod schema;
mod stock_level;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rand::Rng;
use rand::rngs::StdRng;

use crate::client::Client;
use crate::error::{BenchError, Failure};
use crate::load::Batches;
use crate::options::{Action, SharedArgs};
use crate::random::{Stream, generator};
use crate::report::rounded;
use crate::workload::{Condition, Drawn, Headline, Outcome, Session, Table, Workload};
use random::{LAST_NAMES, NuRand};

/// Districts of a warehouse.
const DISTRICTS: u32 = 10;
/// The standard's items.
const ITEMS: u32 = 100_000;
/// The standard's customers of a district.
const CUSTOMERS_PER_DISTRICT: u32 = 3_000;
/// NewOrders per minute that a warehouse's terminals reach at most if they wait as the
/// standard demands (clause 4.2.1).
const TPMC_PER_WAREHOUSE_MAX: f64 = 12.86;

const KINDS: &[&str] = &["new_order", "payment", "order_status", "delivery", "stock_level"];
const NEW_ORDER: usize = 0;
/// How often each kind is drawn, in percent (clause 5.2.3).
const PERCENTAGES: [u32; 5] = [45, 43, 4, 4, 4];
/// Keying times in seconds (clause 5.2.5.7).
const KEYING_S: [u64; 5] = [18, 3, 2, 2, 2];
/// Averages of think times in seconds (clause 5.2.5.7).
const THINKING_S: [f64; 5] = [12.0, 12.0, 10.0, 5.0, 5.0];
/// Longest think time, in averages (clause 5.2.5.4).
const THINKING_MAX: f64 = 10.0;

/// `cairn bench tpcc`.
#[derive(Clone, Debug, Args)]
pub struct TpccArgs {
    /// What to do.
    #[arg(value_enum, default_value_t)]
    pub action: Action,
    /// Options of every workload.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Warehouses to load (default 1), or to use of those that are there (default: all).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub warehouses: Option<u32>,
    /// Wait before and after each transaction as the standard's keying and think times demand.
    #[arg(long)]
    pub wait: bool,
    /// Items to load; the standard has 100,000, and results with fewer are not TPC-C's.
    #[arg(long, default_value_t = ITEMS, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub items: u32,
    /// Customers to load per district; the standard has 3,000, and results with fewer are not
    /// TPC-C's.
    #[arg(
        long,
        default_value_t = CUSTOMERS_PER_DISTRICT,
        value_parser = clap::value_parser!(u32).range(10..=3_000),
    )]
    pub customers_per_district: u32,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
struct Scale {
    warehouses: u32,
    items: u32,
    customers_per_district: u32,
}

impl Scale {
    /// Orders of a district that are loaded as delivered: seven of ten.
    fn delivered_orders(self) -> u32 {
        self.customers_per_district - self.customers_per_district * 3 / 10
    }

    /// Last names that customers have.
    fn last_names(self) -> u32 {
        self.customers_per_district.min(LAST_NAMES)
    }

    /// Any warehouse but `home`; `home` if there is no other.
    fn other_warehouse(self, rng: &mut StdRng, home: u32) -> u32 {
        match self.warehouses {
            1 => home,
            warehouses => (home - 1 + rng.random_range(1..warehouses)) % warehouses + 1,
        }
    }
}

/// The workload.
#[derive(Debug)]
pub struct Tpcc {
    scale: Scale,
    /// What `--warehouses` says.
    wanted: Option<u32>,
    wait: bool,
    seed: u64,
    threads: u32,
    nurand: NuRand,
}

impl Tpcc {
    /// With the sizes of the options.
    pub fn new(args: &TpccArgs) -> Result<Self, BenchError> {
        Ok(Self {
            scale: Scale {
                warehouses: args.warehouses.unwrap_or(1),
                items: args.items,
                customers_per_district: args.customers_per_district,
            },
            wanted: args.warehouses,
            wait: args.wait,
            seed: args.shared.seed,
            threads: args.shared.threads,
            nurand: NuRand::run(&mut generator(args.shared.seed, Stream::Run)),
        })
    }
}

impl Workload for Tpcc {
    type Session = Terminal;

    fn name(&self) -> String {
        "tpcc".to_owned()
    }

    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn tables(&self) -> Vec<Table> {
        schema::tables()
    }

    fn load_jobs(&self) -> usize {
        load::jobs(self.scale)
    }

    async fn load(&self, job: usize, rows: &mut Batches) -> Result<(), Failure> {
        load::load(self.scale, self.seed, job, rows).await
    }

    async fn look(&mut self, client: &mut Client) -> Result<(), BenchError> {
        let mut counts = [0; 3];
        for (count, query) in counts.iter_mut().zip([
            "SELECT COUNT(*) FROM warehouse",
            "SELECT COUNT(*) FROM item",
            "SELECT COUNT(*) FROM customer WHERE c_w_id = 1 AND c_d_id = 1",
        ]) {
            let counted = client.query::<u32>(query).await;
            let counted = counted.map_err(BenchError::failed("counting what is loaded"))?;
            *count = counted.first().copied().unwrap_or(0);
        }
        let [warehouses, items, customers_per_district] = counts;
        if warehouses == 0 || items == 0 || customers_per_district == 0 {
            return Err(BenchError::Options("no warehouse: `prepare` loads them".to_owned()));
        }
        if let Some(wanted) = self.wanted.filter(|wanted| *wanted > warehouses) {
            return Err(BenchError::Options(format!(
                "--warehouses {wanted}: only {warehouses} are loaded"
            )));
        }
        let warehouses = self.wanted.unwrap_or(warehouses);
        self.scale = Scale { warehouses, items, customers_per_district };
        Ok(())
    }

    fn session(self: &Arc<Self>, number: usize) -> Terminal {
        let number = number as u32;
        let warehouses = self.scale.warehouses;
        // With more warehouses than terminals each has every n-th, else each has one.
        let step = self.threads.min(warehouses);
        Terminal {
            rng: generator(self.seed, Stream::Session(number as usize)),
            homes: (number % step + 1..=warehouses).step_by(step as usize).collect(),
            district: number / warehouses % DISTRICTS + 1,
            inputs: Inputs::default(),
            tpcc: Arc::clone(self),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        check::conditions(self.scale)
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({
            "warehouses": self.scale.warehouses,
            "items": self.scale.items,
            "customers_per_district": self.scale.customers_per_district,
            "wait": self.wait,
        })
    }

    fn remark(&self) -> Option<String> {
        let Scale { items, customers_per_district, .. } = self.scale;
        (items != ITEMS || customers_per_district != CUSTOMERS_PER_DISTRICT).then(|| {
            format!(
                "scaled down to {items} items and {customers_per_district} customers per district: \
                 not comparable with TPC-C"
            )
        })
    }

    fn headline(&self, committed: &[u64], seconds: f64) -> Option<Headline> {
        if seconds <= 0.0 {
            return None;
        }
        let tpmc = committed[NEW_ORDER] as f64 * 60.0 / seconds;
        let most = TPMC_PER_WAREHOUSE_MAX * f64::from(self.scale.warehouses);
        let efficiency_percent = self.wait.then(|| rounded(100.0 * tpmc / most));
        Some(Headline { tpmc: rounded(tpmc), efficiency_percent })
    }
}

/// What was drawn.
#[derive(Debug, Default)]
enum Inputs {
    /// Nothing yet.
    #[default]
    None,
    NewOrder(new_order::NewOrder),
    Payment(payment::Payment),
    OrderStatus(order_status::OrderStatus),
    Delivery(delivery::Delivery),
    StockLevel(stock_level::StockLevel),
}

/// One connection.
#[derive(Debug)]
pub struct Terminal {
    tpcc: Arc<Tpcc>,
    rng: StdRng,
    /// Its warehouses.
    homes: Vec<u32>,
    /// The district of its stock levels.
    district: u32,
    inputs: Inputs,
}

/// Draws a kind by the mix.
fn draw_kind(rng: &mut StdRng) -> usize {
    let mut drawn = rng.random_range(0..100);
    for (kind, percentage) in PERCENTAGES.into_iter().enumerate() {
        if drawn < percentage {
            return kind;
        }
        drawn -= percentage;
    }
    NEW_ORDER
}

impl Session for Terminal {
    fn draw(&mut self) -> Option<Drawn> {
        let Tpcc { scale, nurand, wait, .. } = &*self.tpcc;
        let rng = &mut self.rng;
        let w_id = self.homes[rng.random_range(0..self.homes.len())];
        let kind = draw_kind(rng);
        self.inputs = match kind {
            NEW_ORDER => Inputs::NewOrder(new_order::NewOrder::draw(rng, *scale, nurand, w_id)),
            1 => Inputs::Payment(payment::Payment::draw(rng, *scale, nurand, w_id)),
            2 => Inputs::OrderStatus(order_status::OrderStatus::draw(rng, *scale, nurand, w_id)),
            3 => Inputs::Delivery(delivery::Delivery::draw(rng, w_id)),
            _ => Inputs::StockLevel(stock_level::StockLevel::draw(rng, w_id, self.district)),
        };
        if !wait {
            return Some(Drawn::at_once(kind));
        }
        // A logarithm of (0, 1] makes the time fall off exponentially.
        let averages = (-(1.0 - rng.random::<f64>()).ln()).min(THINKING_MAX);
        Some(Drawn {
            kind,
            keying: Duration::from_secs(KEYING_S[kind]),
            thinking: Duration::from_secs_f64(THINKING_S[kind] * averages),
        })
    }

    async fn execute(&mut self, client: &mut Client, _retried: bool) -> Result<Outcome, Failure> {
        match &self.inputs {
            Inputs::None => Ok(Outcome::Committed),
            Inputs::NewOrder(inputs) => inputs.execute(client).await,
            Inputs::Payment(inputs) => inputs.execute(client).await,
            Inputs::OrderStatus(inputs) => inputs.execute(client).await,
            Inputs::Delivery(inputs) => inputs.execute(client).await,
            Inputs::StockLevel(inputs) => inputs.execute(client).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_the_standards() {
        let mut rng = generator(1, Stream::Session(0));
        let mut counts = [0u32; 5];
        (0..100_000).for_each(|_| counts[draw_kind(&mut rng)] += 1);
        for (count, percentage) in counts.into_iter().zip(PERCENTAGES) {
            assert!(count.abs_diff(percentage * 1_000) < 800, "{count} for {percentage} %");
        }
    }

    #[test]
    fn another_warehouse_is_any_but_home() {
        let scale = Scale { warehouses: 3, items: 100, customers_per_district: 10 };
        let mut rng = generator(1, Stream::Run);
        let drawn: Vec<u32> = (0..100).map(|_| scale.other_warehouse(&mut rng, 2)).collect();
        assert!(drawn.contains(&1) && drawn.contains(&3) && !drawn.contains(&2));
        assert_eq!(Scale { warehouses: 1, ..scale }.other_warehouse(&mut rng, 1), 1);
    }
}
