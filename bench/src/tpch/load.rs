//! Rows of the tables: what the standard's `dbgen` makes, made anew by the crate `tpchgen`.

use std::fmt::Display;

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

use crate::error::Failure;
use crate::load::Batches;

/// Rows that one job makes, about.
const ROWS_PER_PART: f64 = 50_000.0;

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableName {
    Region,
    Nation,
    Supplier,
    Customer,
    Part,
    PartSupp,
    Orders,
    LineItem,
}

/// Tables with their rows at scale factor 1.
const TABLES: [(TableName, f64); 8] = [
    (TableName::Region, 0.0),
    (TableName::Nation, 0.0),
    (TableName::Supplier, 1e4),
    (TableName::Customer, 1.5e5),
    (TableName::Part, 2e5),
    (TableName::PartSupp, 8e5),
    (TableName::Orders, 1.5e6),
    (TableName::LineItem, 6e6),
];

/// A share of a table.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The table.
    pub table: TableName,
    /// Which share, from 1.
    pub part: i32,
    /// Of how many.
    pub parts: i32,
}

/// All tables in shares, in the order in which they are loaded.
pub fn parts(scale: f64) -> Vec<Part> {
    let shares = TABLES.iter().flat_map(|(table, rows)| {
        let parts = ((rows * scale / ROWS_PER_PART).ceil() as i32).max(1);
        (1..=parts).map(move |part| Part { table: *table, part, parts })
    });
    shares.collect()
}

/// Makes one share.
pub async fn load(
    table: TableName,
    scale: f64,
    part: i32,
    parts: i32,
    rows: &mut Batches,
) -> Result<(), Failure> {
    match table {
        TableName::Region => {
            put("region", "nss", RegionGenerator::new(scale, part, parts).iter(), rows).await
        }
        TableName::Nation => {
            put("nation", "nsns", NationGenerator::new(scale, part, parts).iter(), rows).await
        }
        TableName::Supplier => {
            let made = SupplierGenerator::new(scale, part, parts);
            put("supplier", "nssnsns", made.iter(), rows).await
        }
        TableName::Customer => {
            let made = CustomerGenerator::new(scale, part, parts);
            put("customer", "nssnsnss", made.iter(), rows).await
        }
        TableName::Part => {
            put("part", "nssssnsns", PartGenerator::new(scale, part, parts).iter(), rows).await
        }
        TableName::PartSupp => {
            let made = PartSuppGenerator::new(scale, part, parts);
            put("partsupp", "nnnns", made.iter(), rows).await
        }
        TableName::Orders => {
            put("orders", "nnsnsssns", OrderGenerator::new(scale, part, parts).iter(), rows).await
        }
        TableName::LineItem => {
            let made = LineItemGenerator::new(scale, part, parts);
            put("lineitem", "nnnnnnnnssssssss", made.iter(), rows).await
        }
    }
}

/// Sends rows; `forms` has a letter per column, `n` for a number and `s` for what is quoted.
async fn put<T: Display>(
    into: &'static str,
    forms: &str,
    made: impl Iterator<Item = T>,
    rows: &mut Batches,
) -> Result<(), Failure> {
    for row in made {
        rows.row(into, values(&row.to_string(), forms)).await?;
    }
    Ok(())
}

/// A line of the standard's form, `value|value|`, as the values of an INSERT.
fn values(line: &str, forms: &str) -> String {
    let mut values = String::with_capacity(line.len() + 2 * forms.len());
    for (form, value) in forms.chars().zip(line.split('|')) {
        if !values.is_empty() {
            values.push(',');
        }
        match form {
            'n' => values.push_str(value),
            _ => {
                values.push('\'');
                // Texts of the generator have no backslashes.
                values.push_str(&value.replace('\'', "''"));
                values.push('\'');
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_values() {
        assert_eq!(values("1|it's|2.50|", "nsn"), "1,'it''s',2.50");
    }

    #[test]
    fn shares_cover_all_tables() {
        let shares = parts(0.1);
        assert_eq!(shares.iter().filter(|share| share.table == TableName::LineItem).count(), 12);
        assert_eq!(shares.iter().filter(|share| share.table == TableName::Region).count(), 1);
    }
}
