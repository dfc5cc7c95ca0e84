//! NewOrder (clause 2.4): a customer orders 5 to 15 items. One of a hundred names an item
//! that does not exist, and is rolled back.
//!
//! Items and stock are read for all lines at once, as an application would; the stock of lines is
//! locked in one order, so that orders do not wait for each other in a circle.

use std::sync::LazyLock;

use mysql_async::Value;
use rand::Rng;
use rand::rngs::StdRng;

use super::random::NuRand;
use super::{DISTRICTS, Scale};
use crate::client::{Client, columns, values};
use crate::error::Failure;
use crate::workload::Outcome;

/// Most lines of an order.
const LINES_MAX: usize = 15;

const SELECT_CUSTOMER: &str = "SELECT c_discount, c_last, c_credit, w_tax \
     FROM customer, warehouse WHERE w_id = ? AND c_w_id = w_id AND c_d_id = ? AND c_id = ?";
const SELECT_DISTRICT: &str =
    "SELECT d_next_o_id, d_tax FROM district WHERE d_w_id = ? AND d_id = ? FOR UPDATE";
const UPDATE_DISTRICT: &str = "UPDATE district SET d_next_o_id = ? WHERE d_w_id = ? AND d_id = ?";
const INSERT_ORDER: &str = "INSERT INTO orders (o_id, o_d_id, o_w_id, o_c_id, o_entry_d, \
     o_ol_cnt, o_all_local) VALUES (?, ?, ?, ?, NOW(), ?, ?)";
const INSERT_NEW_ORDER: &str = "INSERT INTO new_order (no_o_id, no_d_id, no_w_id) VALUES (?, ?, ?)";
const UPDATE_STOCK: &str = "UPDATE stock SET s_quantity = ?, s_ytd = s_ytd + ?, \
     s_order_cnt = s_order_cnt + 1, s_remote_cnt = s_remote_cnt + ? WHERE s_w_id = ? AND s_i_id = ?";

/// Reads this many items.
static SELECT_ITEMS: LazyLock<Vec<String>> = LazyLock::new(|| {
    by_count(|marks| {
        format!("SELECT i_id, i_price, i_name, i_data FROM item WHERE i_id IN ({marks})")
    })
});
/// Reads and locks the stock of this many items; the first value is the district.
static SELECT_STOCK: LazyLock<Vec<String>> = LazyLock::new(|| {
    let districts: Vec<String> = (1..=DISTRICTS).map(|n| format!("s_dist_{n:02}")).collect();
    let districts = districts.join(", ");
    by_count(|marks| {
        format!(
            "SELECT s_i_id, s_quantity, s_data, ELT(?, {districts}) FROM stock \
             WHERE s_w_id = ? AND s_i_id IN ({marks}) FOR UPDATE"
        )
    })
});
/// Inserts this many lines.
static INSERT_LINES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let rows = |count| vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?)"; count].join(", ");
    let statement = |count| {
        format!(
            "INSERT INTO order_line (ol_o_id, ol_d_id, ol_w_id, ol_number, ol_i_id, \
             ol_supply_w_id, ol_quantity, ol_amount, ol_dist_info) VALUES {}",
            rows(count)
        )
    };
    (0..=LINES_MAX).map(statement).collect()
});

/// A statement for each number of `?` in a list.
fn by_count(statement: impl Fn(String) -> String) -> Vec<String> {
    (0..=LINES_MAX).map(|count| statement(vec!["?"; count].join(", "))).collect()
}

/// One line of an order.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Its place in the order.
    number: u32,
    i_id: u32,
    supply_w_id: u32,
    quantity: u32,
}

/// An order.
#[derive(Debug)]
pub struct NewOrder {
    w_id: u32,
    d_id: u32,
    c_id: u32,
    /// By supplying warehouse and item.
    lines: Vec<Line>,
    /// Whether an item does not exist.
    unused_item: bool,
}

impl NewOrder {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, scale: Scale, nurand: &NuRand, w_id: u32) -> Self {
        let count = rng.random_range(5..=LINES_MAX as u32);
        let unused_item = rng.random_range(0..100) == 0;
        let line = |number| {
            let remote = rng.random_range(0..100) == 0;
            let unused = unused_item && number == count;
            Line {
                number,
                i_id: if unused { scale.items + 1 } else { nurand.item(rng, scale.items) },
                supply_w_id: if remote { scale.other_warehouse(rng, w_id) } else { w_id },
                quantity: rng.random_range(1..=10),
            }
        };
        let mut lines: Vec<Line> = (1..=count).map(line).collect();
        lines.sort_by_key(|line| (line.supply_w_id, line.i_id));
        Self {
            w_id,
            d_id: rng.random_range(1..=DISTRICTS),
            c_id: nurand.customer(rng, scale.customers_per_district),
            lines,
            unused_item,
        }
    }

    /// Executes it.
    pub async fn execute(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let Self { w_id, d_id, c_id, lines, .. } = self;
        client.begin().await?;
        let (_discount, _last, _credit, _w_tax): (f64, String, String, f64) =
            client.one(SELECT_CUSTOMER, values![w_id, d_id, c_id]).await?;
        let (o_id, _d_tax): (u32, f64) = client.one(SELECT_DISTRICT, values![w_id, d_id]).await?;
        client.change(UPDATE_DISTRICT, values![o_id + 1, w_id, d_id]).await?;
        let all_local = lines.iter().all(|line| line.supply_w_id == *w_id);
        let order = values![o_id, d_id, w_id, c_id, lines.len(), u32::from(all_local)];
        client.change(INSERT_ORDER, order).await?;
        client.change(INSERT_NEW_ORDER, values![o_id, d_id, w_id]).await?;
        let Some(prices) = self.prices(client).await? else {
            client.roll_back().await?;
            return Ok(Outcome::RolledBack);
        };
        let mut rows: Vec<Value> = Vec::with_capacity(lines.len() * 9);
        let mut prices = prices.into_iter();
        for supplied in lines.chunk_by(|a, b| a.supply_w_id == b.supply_w_id) {
            let infos = self.take_from_stock(client, supplied).await?;
            for ((line, info), price) in supplied.iter().zip(infos).zip(&mut prices) {
                let Line { number, i_id, supply_w_id, quantity } = line;
                let amount = f64::from(*quantity) * price;
                rows.extend(values![o_id, d_id, w_id, number, i_id, supply_w_id, quantity]);
                rows.extend(values![amount, info]);
            }
        }
        client.change(&INSERT_LINES[lines.len()], rows).await?;
        client.commit().await?;
        Ok(Outcome::Committed)
    }

    /// The price of each line; `None` if an item does not exist, as it is to be.
    async fn prices(&self, client: &mut Client) -> Result<Option<Vec<f64>>, Failure> {
        let ids = self.lines.iter().map(|line| Value::from(line.i_id)).collect();
        let rows = client.rows(&SELECT_ITEMS[self.lines.len()], ids).await?;
        let mut items: Vec<(u32, f64)> = Vec::with_capacity(rows.len());
        for row in rows {
            let (i_id, price, _name, _data): (u32, f64, String, String) = columns(row)?;
            items.push((i_id, price));
        }
        let price = |line: &Line| items.iter().find(|(i_id, _)| *i_id == line.i_id);
        let prices: Option<Vec<f64>> =
            self.lines.iter().map(|line| price(line).map(|(_, price)| *price)).collect();
        if prices.is_some() == self.unused_item {
            return Err(Failure::Wrong(format!("items {items:?} for lines {:?}", self.lines)));
        }
        Ok(prices)
    }

    /// Takes lines of one warehouse out of its stock; what the stock says of the district,
    /// line by line.
    async fn take_from_stock(
        &self,
        client: &mut Client,
        lines: &[Line],
    ) -> Result<Vec<String>, Failure> {
        let supply_w_id = lines.first().map_or(self.w_id, |line| line.supply_w_id);
        let mut asked = values![self.d_id, supply_w_id];
        asked.extend(lines.iter().map(|line| Value::from(line.i_id)));
        let mut stock: Vec<(u32, i64, String)> = Vec::with_capacity(lines.len());
        for row in client.rows(&SELECT_STOCK[lines.len()], asked).await? {
            let (i_id, quantity, _data, info): (u32, i64, String, String) = columns(row)?;
            stock.push((i_id, quantity, info));
        }
        let mut infos = Vec::with_capacity(lines.len());
        for line in lines {
            let here = stock.iter_mut().find(|(i_id, ..)| *i_id == line.i_id);
            let Some((_, left, info)) = here else {
                let missing = format!("stock of item {} in {supply_w_id} is missing", line.i_id);
                return Err(Failure::Wrong(missing));
            };
            *left = quantity_left(*left, i64::from(line.quantity));
            let remote = u32::from(supply_w_id != self.w_id);
            let change = values![*left, line.quantity, remote, supply_w_id, line.i_id];
            client.change(UPDATE_STOCK, change).await?;
            infos.push(info.clone());
        }
        Ok(infos)
    }
}

/// What is left in stock, which is filled up by 91 before it falls below 10 (clause 2.4.2.2).
fn quantity_left(stock: i64, ordered: i64) -> i64 {
    if stock >= ordered + 10 { stock - ordered } else { stock - ordered + 91 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn stock_is_filled_up_in_time() {
        assert_eq!(quantity_left(20, 10), 10);
        assert_eq!(quantity_left(19, 10), 100);
        assert_eq!(quantity_left(10, 1), 100);
    }

    #[test]
    fn orders_are_drawn_as_the_standard_says() {
        let scale = Scale { warehouses: 5, items: 1_000, customers_per_district: 30 };
        let mut rng = generator(1, Stream::Session(0));
        let nurand = NuRand::run(&mut rng);
        let orders: Vec<NewOrder> =
            (0..10_000).map(|_| NewOrder::draw(&mut rng, scale, &nurand, 3)).collect();
        let lines = || orders.iter().flat_map(|order| &order.lines);
        assert!(orders.iter().all(|order| (5..=15).contains(&order.lines.len())));
        let average = lines().count() as f64 / orders.len() as f64;
        assert!((9.8..10.2).contains(&average), "{average}");
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let remote = lines().filter(|line| line.supply_w_id != 3).count();
        assert!((0.008..0.012).contains(&share(remote, lines().count())), "{remote}");
        let unused = orders.iter().filter(|order| order.unused_item).count();
        assert!((0.007..0.013).contains(&share(unused, orders.len())), "{unused}");
        for order in &orders {
            let missing = order.lines.iter().filter(|line| line.i_id > scale.items).count();
            assert_eq!(missing, usize::from(order.unused_item));
        }
    }
}
