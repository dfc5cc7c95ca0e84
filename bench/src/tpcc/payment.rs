//! Payment (clause 2.5): a customer pays, in 15 of 100 cases through another warehouse than
//! its own.

use rand::Rng;
use rand::rngs::StdRng;

use super::customer::Known;
use super::random::NuRand;
use super::{DISTRICTS, Scale};
use crate::client::{Client, values};
use crate::error::Failure;
use crate::workload::Outcome;

const UPDATE_WAREHOUSE: &str = "UPDATE warehouse SET w_ytd = w_ytd + ? WHERE w_id = ?";
const SELECT_WAREHOUSE: &str = "SELECT w_name, w_street_1, w_street_2, w_city, w_state, w_zip \
     FROM warehouse WHERE w_id = ?";
const UPDATE_DISTRICT: &str = "UPDATE district SET d_ytd = d_ytd + ? WHERE d_w_id = ? AND d_id = ?";
const SELECT_DISTRICT: &str = "SELECT d_name, d_street_1, d_street_2, d_city, d_state, d_zip \
     FROM district WHERE d_w_id = ? AND d_id = ?";
const SELECT_CUSTOMER: &str = "SELECT c_credit, c_first, c_middle, c_last, c_street_1, \
     c_street_2, c_city, c_state, c_zip, c_phone, c_credit_lim, c_discount, c_balance, c_since \
     FROM customer WHERE c_w_id = ? AND c_d_id = ? AND c_id = ? FOR UPDATE";
const UPDATE_CUSTOMER: &str = "UPDATE customer SET c_balance = c_balance - ?, \
     c_ytd_payment = c_ytd_payment + ?, c_payment_cnt = c_payment_cnt + 1 \
     WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
const SELECT_DATA: &str =
    "SELECT c_data FROM customer WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
const UPDATE_BAD_CUSTOMER: &str = "UPDATE customer SET c_balance = c_balance - ?, \
     c_ytd_payment = c_ytd_payment + ?, c_payment_cnt = c_payment_cnt + 1, \
     c_data = LEFT(CONCAT(?, c_data), 500) WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
const INSERT_HISTORY: &str = "INSERT INTO history (h_c_id, h_c_d_id, h_c_w_id, h_d_id, h_w_id, \
     h_date, h_amount, h_data) VALUES (?, ?, ?, ?, ?, NOW(), ?, ?)";

/// A payment.
#[derive(Debug)]
pub struct Payment {
    w_id: u32,
    d_id: u32,
    c_w_id: u32,
    c_d_id: u32,
    customer: Known,
    amount_cents: u32,
}

impl Payment {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, scale: Scale, nurand: &NuRand, w_id: u32) -> Self {
        let d_id = rng.random_range(1..=DISTRICTS);
        let (c_w_id, c_d_id) = match rng.random_range(0..100) < 85 {
            true => (w_id, d_id),
            false => (scale.other_warehouse(rng, w_id), rng.random_range(1..=DISTRICTS)),
        };
        Self {
            w_id,
            d_id,
            c_w_id,
            c_d_id,
            customer: Known::draw(rng, scale, nurand),
            amount_cents: rng.random_range(100..=500_000),
        }
    }

    /// Executes it.
    pub async fn execute(&self, client: &mut Client) -> Result<Outcome, Failure> {
        let Self { w_id, d_id, c_w_id, c_d_id, .. } = self;
        let amount = f64::from(self.amount_cents) / 100.0;
        client.begin().await?;
        client.change(UPDATE_WAREHOUSE, values![amount, w_id]).await?;
        type Place = (String, String, String, String, String, String);
        let (w_name, ..): Place = client.one(SELECT_WAREHOUSE, values![w_id]).await?;
        client.change(UPDATE_DISTRICT, values![amount, w_id, d_id]).await?;
        let (d_name, ..): Place = client.one(SELECT_DISTRICT, values![w_id, d_id]).await?;
        let c_id = self.customer.id(client, *c_w_id, *c_d_id).await?;
        let row: mysql_async::Row =
            client.one(SELECT_CUSTOMER, values![c_w_id, c_d_id, c_id]).await?;
        let credit: Option<String> = row.get_opt(0).and_then(Result::ok);
        if credit.as_deref() == Some("BC") {
            let _data: String = client.one(SELECT_DATA, values![c_w_id, c_d_id, c_id]).await?;
            let note = format!("{c_id} {c_d_id} {c_w_id} {d_id} {w_id} {amount:.2} | ");
            let change = values![amount, amount, note, c_w_id, c_d_id, c_id];
            client.change(UPDATE_BAD_CUSTOMER, change).await?;
        } else {
            let change = values![amount, amount, c_w_id, c_d_id, c_id];
            client.change(UPDATE_CUSTOMER, change).await?;
        }
        let data = format!("{w_name}    {d_name}");
        let history = values![c_id, c_d_id, c_w_id, d_id, w_id, amount, data];
        client.change(INSERT_HISTORY, history).await?;
        client.commit().await?;
        Ok(Outcome::Committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};

    #[test]
    fn payments_are_drawn_as_the_standard_says() {
        let scale = Scale { warehouses: 5, items: 1_000, customers_per_district: 30 };
        let mut rng = generator(1, Stream::Session(0));
        let nurand = NuRand::run(&mut rng);
        let payments: Vec<Payment> =
            (0..10_000).map(|_| Payment::draw(&mut rng, scale, &nurand, 3)).collect();
        let remote = payments.iter().filter(|payment| payment.c_w_id != 3).count();
        assert!((1_400..1_600).contains(&remote), "{remote}");
        let by_name = |payment: &&Payment| matches!(payment.customer, Known::LastName(_));
        let by_name = payments.iter().filter(by_name).count();
        assert!((5_850..6_150).contains(&by_name), "{by_name}");
    }
}
