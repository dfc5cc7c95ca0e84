//! The initial population (clause 4.3.3.1).
//!
//! Dates are one constant instead of the time of loading: equal seeds give equal tables.

use rand::Rng;
use rand::rngs::StdRng;

use super::random::{
    LAST_NAMES, NuRand, digits, last_name, original_data, permutation, state, zip,
};
use super::{DISTRICTS, Scale};
use crate::error::Failure;
use crate::load::Batches;
use crate::random::{Stream, alphanumeric, generator};

/// When everything was entered.
const LOADED_AT: &str = "2026-01-01 00:00:00";
/// What every customer has paid.
const PAID: u32 = 10;

const WAREHOUSE: &str =
    "warehouse (w_id, w_name, w_street_1, w_street_2, w_city, w_state, w_zip, w_tax, w_ytd)";
const DISTRICT: &str = "district (d_id, d_w_id, d_name, d_street_1, d_street_2, d_city, d_state, \
                        d_zip, d_tax, d_ytd, d_next_o_id)";
const CUSTOMER: &str = "customer (c_id, c_d_id, c_w_id, c_first, c_middle, c_last, c_street_1, \
                        c_street_2, c_city, c_state, c_zip, c_phone, c_since, c_credit, \
                        c_credit_lim, c_discount, c_balance, c_ytd_payment, c_payment_cnt, \
                        c_delivery_cnt, c_data)";
const HISTORY: &str =
    "history (h_c_id, h_c_d_id, h_c_w_id, h_d_id, h_w_id, h_date, h_amount, h_data)";
const NEW_ORDER: &str = "new_order (no_o_id, no_d_id, no_w_id)";
const ORDERS: &str =
    "orders (o_id, o_d_id, o_w_id, o_c_id, o_entry_d, o_carrier_id, o_ol_cnt, o_all_local)";
const ORDER_LINE: &str = "order_line (ol_o_id, ol_d_id, ol_w_id, ol_number, ol_i_id, \
                          ol_supply_w_id, ol_delivery_d, ol_quantity, ol_amount, ol_dist_info)";
const ITEM: &str = "item (i_id, i_im_id, i_name, i_price, i_data)";
const STOCK: &str = "stock (s_i_id, s_w_id, s_quantity, s_dist_01, s_dist_02, s_dist_03, \
                     s_dist_04, s_dist_05, s_dist_06, s_dist_07, s_dist_08, s_dist_09, s_dist_10, \
                     s_ytd, s_order_cnt, s_remote_cnt, s_data)";

/// A part of the rows that is loaded on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Items,
    Warehouse { w_id: u32 },
    District { w_id: u32, d_id: u32 },
}

/// Jobs for each warehouse: itself with its stock, and its districts.
const JOBS_PER_WAREHOUSE: u32 = 1 + DISTRICTS;

/// How many jobs there are: one for the items, and those of the warehouses.
pub fn jobs(scale: Scale) -> usize {
    1 + (scale.warehouses * JOBS_PER_WAREHOUSE) as usize
}

impl Job {
    fn nth(number: usize) -> Job {
        let Some(number) = number.checked_sub(1) else { return Job::Items };
        let per_warehouse = JOBS_PER_WAREHOUSE as usize;
        let w_id = (number / per_warehouse) as u32 + 1;
        match (number % per_warehouse) as u32 {
            0 => Job::Warehouse { w_id },
            d_id => Job::District { w_id, d_id },
        }
    }
}

/// Does the n-th job.
pub async fn load(
    scale: Scale,
    seed: u64,
    number: usize,
    rows: &mut Batches,
) -> Result<(), Failure> {
    let mut rng = generator(seed, Stream::Load(number));
    match Job::nth(number) {
        Job::Items => items(scale, &mut rng, rows).await,
        Job::Warehouse { w_id } => warehouse(scale, w_id, &mut rng, rows).await,
        Job::District { w_id, d_id } => {
            district(scale, w_id, d_id, &mut rng, rows).await?;
            customers(scale, w_id, d_id, &mut rng, rows).await?;
            orders(scale, w_id, d_id, &mut rng, rows).await
        }
    }
}

/// A tax or discount of up to so many ten-thousandths.
fn rate(rng: &mut StdRng, ten_thousandths_max: u32) -> String {
    format!("0.{:04}", rng.random_range(0..=ten_thousandths_max))
}

/// Streets, city, state and ZIP code, as values of a row.
fn address(rng: &mut StdRng) -> String {
    let mut line = || alphanumeric(rng, 10, 20);
    let lines = [line(), line(), line()].join("','");
    format!("'{lines}','{}','{}'", state(rng), zip(rng))
}

async fn items(scale: Scale, rng: &mut StdRng, rows: &mut Batches) -> Result<(), Failure> {
    for i_id in 1..=scale.items {
        let image = rng.random_range(1..=10_000);
        let name = alphanumeric(rng, 14, 24);
        let price_cents: u32 = rng.random_range(100..=10_000);
        let data = original_data(rng);
        let (units, cents) = (price_cents / 100, price_cents % 100);
        rows.row(ITEM, format!("{i_id},{image},'{name}',{units}.{cents:02},'{data}'")).await?;
    }
    Ok(())
}

/// A warehouse and its stock.
async fn warehouse(
    scale: Scale,
    w_id: u32,
    rng: &mut StdRng,
    rows: &mut Batches,
) -> Result<(), Failure> {
    let (name, address, tax) = (alphanumeric(rng, 6, 10), address(rng), rate(rng, 2_000));
    let ytd = PAID * scale.customers_per_district * DISTRICTS;
    rows.row(WAREHOUSE, format!("{w_id},'{name}',{address},{tax},{ytd}")).await?;
    for i_id in 1..=scale.items {
        let quantity = rng.random_range(10..=100);
        let districts: Vec<String> = (0..DISTRICTS).map(|_| alphanumeric(rng, 24, 24)).collect();
        let (districts, data) = (districts.join("','"), original_data(rng));
        rows.row(STOCK, format!("{i_id},{w_id},{quantity},'{districts}',0,0,0,'{data}'")).await?;
    }
    Ok(())
}

async fn district(
    scale: Scale,
    w_id: u32,
    d_id: u32,
    rng: &mut StdRng,
    rows: &mut Batches,
) -> Result<(), Failure> {
    let (name, address, tax) = (alphanumeric(rng, 6, 10), address(rng), rate(rng, 2_000));
    let ytd = PAID * scale.customers_per_district;
    let next = scale.customers_per_district + 1;
    rows.row(DISTRICT, format!("{d_id},{w_id},'{name}',{address},{tax},{ytd},{next}")).await
}

/// The customers of a district, each with one payment.
async fn customers(
    scale: Scale,
    w_id: u32,
    d_id: u32,
    rng: &mut StdRng,
    rows: &mut Batches,
) -> Result<(), Failure> {
    let nurand = NuRand::load(rng);
    for c_id in 1..=scale.customers_per_district {
        // The first thousand have all the names there are.
        let name = match c_id <= LAST_NAMES {
            true => c_id - 1,
            false => nurand.last_name(rng, LAST_NAMES),
        };
        let (first, last) = (alphanumeric(rng, 8, 16), last_name(name));
        let (address, phone) = (address(rng), digits(rng, 16));
        let credit = if rng.random_range(0..10) == 0 { "BC" } else { "GC" };
        let (discount, data) = (rate(rng, 5_000), alphanumeric(rng, 300, 500));
        rows.row(
            CUSTOMER,
            format!(
                "{c_id},{d_id},{w_id},'{first}','OE','{last}',{address},'{phone}','{LOADED_AT}',\
                 '{credit}',50000,{discount},-{PAID},{PAID},1,0,'{data}'"
            ),
        )
        .await?;
        let data = alphanumeric(rng, 12, 24);
        rows.row(
            HISTORY,
            format!("{c_id},{d_id},{w_id},{d_id},{w_id},'{LOADED_AT}',{PAID},'{data}'"),
        )
        .await?;
    }
    Ok(())
}

/// One order of each customer; the last three of ten are not delivered yet.
async fn orders(
    scale: Scale,
    w_id: u32,
    d_id: u32,
    rng: &mut StdRng,
    rows: &mut Batches,
) -> Result<(), Failure> {
    let customers = permutation(rng, scale.customers_per_district);
    for (o_id, c_id) in (1..).zip(customers) {
        let delivered = o_id <= scale.delivered_orders();
        let lines = rng.random_range(5..=15);
        let carrier = match delivered {
            true => rng.random_range(1..=10).to_string(),
            false => "NULL".to_owned(),
        };
        rows.row(ORDERS, format!("{o_id},{d_id},{w_id},{c_id},'{LOADED_AT}',{carrier},{lines},1"))
            .await?;
        for number in 1..=lines {
            let i_id = rng.random_range(1..=scale.items);
            let cents = if delivered { 0 } else { rng.random_range(1..=999_999) };
            let (units, cents) = (cents / 100, cents % 100);
            let at = if delivered { format!("'{LOADED_AT}'") } else { "NULL".to_owned() };
            let info = alphanumeric(rng, 24, 24);
            rows.row(
                ORDER_LINE,
                format!(
                    "{o_id},{d_id},{w_id},{number},{i_id},{w_id},{at},5,{units}.{cents:02},'{info}'"
                ),
            )
            .await?;
        }
        if !delivered {
            rows.row(NEW_ORDER, format!("{o_id},{d_id},{w_id}")).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_cover_everything_once() {
        let scale = Scale { warehouses: 2, items: 10, customers_per_district: 10 };
        let all: Vec<Job> = (0..jobs(scale)).map(Job::nth).collect();
        assert_eq!(all.len(), 23);
        assert_eq!(all[0], Job::Items);
        assert_eq!(all[1], Job::Warehouse { w_id: 1 });
        assert_eq!(all[11], Job::District { w_id: 1, d_id: 10 });
        assert_eq!(all[12], Job::Warehouse { w_id: 2 });
        assert_eq!(all[22], Job::District { w_id: 2, d_id: 10 });
    }
}
