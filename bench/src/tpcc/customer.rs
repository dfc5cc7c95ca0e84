//! Finding a customer: by number, or by last name in three of five cases (clauses 2.5.1.2,
//! 2.6.1.2).

use rand::Rng;
use rand::rngs::StdRng;

use super::Scale;
use super::random::{NuRand, last_name};
use crate::client::{Client, columns, values};
use crate::error::Failure;

const BY_LAST_NAME: &str = "SELECT c_id FROM customer \
     WHERE c_w_id = ? AND c_d_id = ? AND c_last = ? ORDER BY c_first";

/// What is known of a customer.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its number.
    Id(u32),
    /// Its last name, which others share.
    LastName(String),
}

impl Known {
    /// Draws one.
    pub fn draw(rng: &mut StdRng, scale: Scale, nurand: &NuRand) -> Self {
        if rng.random_range(0..100) < 60 {
            return Known::LastName(last_name(nurand.last_name(rng, scale.last_names())));
        }
        Known::Id(nurand.customer(rng, scale.customers_per_district))
    }

    /// The customer's number: of those with the name, the middle one by first name.
    pub async fn id(&self, client: &mut Client, w_id: u32, d_id: u32) -> Result<u32, Failure> {
        let name = match self {
            Known::Id(id) => return Ok(*id),
            Known::LastName(name) => name,
        };
        let mut rows = client.rows(BY_LAST_NAME, values![w_id, d_id, name]).await?;
        if rows.is_empty() {
            let place = format!("district {w_id}-{d_id}");
            return Err(Failure::Wrong(format!("nobody in {place} is called {name}")));
        }
        // The middle is rounded up, counted from one.
        let middle = rows.len().div_ceil(2) - 1;
        columns(rows.swap_remove(middle))
    }
}
