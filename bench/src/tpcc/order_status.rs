//! OrderStatus (clause 2.6): what became of a customer's last order.

use rand::Rng;
use rand::rngs::StdRng;

use super::customer::Known;
use super::random::NuRand;
use super::{DISTRICTS, Scale};
use crate::client::{Client, values};
use crate::error::Failure;
use crate::workload::Outcome;

const SELECT_CUSTOMER: &str = "SELECT c_balance, c_first, c_middle, c_last FROM customer \
     WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
const SELECT_ORDER: &str = "SELECT o_id, o_carrier_id FROM orders \
     WHERE o_w_id = ? AND o_d_id = ? AND o_c_id = ? ORDER BY o_id DESC LIMIT 1";
const SELECT_LINES: &str = "SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, \
     ol_delivery_d FROM order_line WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";

/// A question.
#[derive(Debug)]
pub struct OrderStatus {
    w_id: u32,
    d_id: u32,
    customer: Known,
}

impl OrderStatus {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, scale: Scale, nurand: &NuRand, w_id: u32) -> Self {
        let d_id = rng.random_range(1..=DISTRICTS);
        Self { w_id, d_id, customer: Known::draw(rng, scale, nurand) }
    }

    /// Executes it.
    pub async fn execute(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let Self { w_id, d_id, customer } = self;
        client.begin().await?;
        let c_id = customer.id(client, *w_id, *d_id).await?;
        let _: (f64, String, String, String) =
            client.one(SELECT_CUSTOMER, values![w_id, d_id, c_id]).await?;
        // Every customer was loaded with an order.
        let (o_id, _carrier): (u32, Option<u32>) =
            client.one(SELECT_ORDER, values![w_id, d_id, c_id]).await?;
        let lines = client.rows(SELECT_LINES, values![w_id, d_id, o_id]).await?;
        if !(5..=15).contains(&lines.len()) {
            let lines = lines.len();
            return Err(Failure::Wrong(format!("order {w_id}-{d_id}-{o_id} has {lines} lines")));
        }
        client.commit().await?;
        Ok(Outcome::Committed)
    }
}
