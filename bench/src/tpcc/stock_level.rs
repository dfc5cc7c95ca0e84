//! StockLevel (clause 2.8): of the items in a district's last 20 orders, how many are low in
//! stock.

use rand::Rng;
use rand::rngs::StdRng;

use crate::client::{Client, values};
use crate::error::Failure;
use crate::workload::Outcome;

const SELECT_NEXT: &str = "SELECT d_next_o_id FROM district WHERE d_w_id = ? AND d_id = ?";
const COUNT_LOW: &str = "SELECT COUNT(DISTINCT s_i_id) FROM order_line, stock \
     WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id < ? AND ol_o_id >= ? \
     AND s_w_id = ? AND s_i_id = ol_i_id AND s_quantity < ?";
/// Orders that are looked at.
const ORDERS: u32 = 20;

/// A question.
#[derive(Debug)]
pub struct StockLevel {
    w_id: u32,
    d_id: u32,
    threshold: u32,
}

impl StockLevel {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, w_id: u32, d_id: u32) -> Self {
        Self { w_id, d_id, threshold: rng.random_range(10..=20) }
    }

    /// Executes it.
    pub async fn execute(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let Self { w_id, d_id, threshold } = self;
        client.begin().await?;
        let next: u32 = client.one(SELECT_NEXT, values![w_id, d_id]).await?;
        let first = next.saturating_sub(ORDERS);
        let _low: u64 =
            client.one(COUNT_LOW, values![w_id, d_id, next, first, w_id, threshold]).await?;
        client.commit().await?;
        Ok(Outcome::Committed)
    }
}
