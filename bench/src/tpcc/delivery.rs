//! Delivery (clause 2.7): the oldest new order of each district of a warehouse is delivered,
//! all in one transaction.
//!
//! What was changed before is read afterwards: a transaction sees its own changes, also where
//! they are newer than its snapshot, because another delivery made it wait.

use rand::Rng;
use rand::rngs::StdRng;

use super::DISTRICTS;
use crate::client::{Client, values};
use crate::error::Failure;
use crate::workload::Outcome;

const SELECT_OLDEST: &str = "SELECT no_o_id FROM new_order \
     WHERE no_w_id = ? AND no_d_id = ? ORDER BY no_o_id LIMIT 1 FOR UPDATE";
const DELETE_NEW_ORDER: &str =
    "DELETE FROM new_order WHERE no_w_id = ? AND no_d_id = ? AND no_o_id = ?";
const UPDATE_ORDER: &str =
    "UPDATE orders SET o_carrier_id = ? WHERE o_w_id = ? AND o_d_id = ? AND o_id = ?";
const SELECT_CUSTOMER: &str =
    "SELECT o_c_id FROM orders WHERE o_w_id = ? AND o_d_id = ? AND o_id = ?";
const UPDATE_LINES: &str = "UPDATE order_line SET ol_delivery_d = NOW() \
     WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";
const SELECT_AMOUNT: &str = "SELECT SUM(ol_amount) FROM order_line \
     WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";
const UPDATE_CUSTOMER: &str = "UPDATE customer SET c_balance = c_balance + ?, \
     c_delivery_cnt = c_delivery_cnt + 1 WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";

/// A delivery.
#[derive(Debug)]
pub struct Delivery {
    w_id: u32,
    carrier: u32,
}

impl Delivery {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, w_id: u32) -> Self {
        Self { w_id, carrier: rng.random_range(1..=10) }
    }

    /// Executes it.
    pub async fn execute(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let w_id = self.w_id;
        client.begin().await?;
        for d_id in 1..=DISTRICTS {
            let oldest: Option<u32> = client.first(SELECT_OLDEST, values![w_id, d_id]).await?;
            // A district may have none left (clause 2.7.4.2).
            let Some(o_id) = oldest else { continue };
            let order = || values![w_id, d_id, o_id];
            client.change(DELETE_NEW_ORDER, order()).await?;
            client.change(UPDATE_ORDER, values![self.carrier, w_id, d_id, o_id]).await?;
            let c_id: u32 = client.one(SELECT_CUSTOMER, order()).await?;
            client.change(UPDATE_LINES, order()).await?;
            let amount: f64 = client.one(SELECT_AMOUNT, order()).await?;
            client.change(UPDATE_CUSTOMER, values![amount, w_id, d_id, c_id]).await?;
        }
        client.commit().await?;
        Ok(Outcome::Committed)
    }
}
