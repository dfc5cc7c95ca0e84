//! The queries of TPC-H (clause 2.4) with the parameters of the validation runs, in MySQL's words:
//! numbers of rows by LIMIT, the view of query 15 as a common table expression.

use std::borrow::Cow;

/// The n-th query at n - 1, at scale factor 1.
const QUERIES: [&str; 22] = [
    include_str!("queries/q1.sql"),
    include_str!("queries/q2.sql"),
    include_str!("queries/q3.sql"),
    include_str!("queries/q4.sql"),
    include_str!("queries/q5.sql"),
    include_str!("queries/q6.sql"),
    include_str!("queries/q7.sql"),
    include_str!("queries/q8.sql"),
    include_str!("queries/q9.sql"),
    include_str!("queries/q10.sql"),
    include_str!("queries/q11.sql"),
    include_str!("queries/q12.sql"),
    include_str!("queries/q13.sql"),
    include_str!("queries/q14.sql"),
    include_str!("queries/q15.sql"),
    include_str!("queries/q16.sql"),
    include_str!("queries/q17.sql"),
    include_str!("queries/q18.sql"),
    include_str!("queries/q19.sql"),
    include_str!("queries/q20.sql"),
    include_str!("queries/q21.sql"),
    include_str!("queries/q22.sql"),
];
/// The query whose parameter depends on the scale factor (clause 2.4.11.3), and the parameter.
const IMPORTANT_STOCK: usize = 10;
const FRACTION: f64 = 0.0001;

/// A query, counted from 0.
pub fn query(kind: usize, scale: f64) -> Cow<'static, str> {
    let sql = QUERIES[kind];
    if kind != IMPORTANT_STOCK || scale == 1.0 {
        return Cow::Borrowed(sql);
    }
    let fraction = format!("{:.10}", FRACTION / scale);
    Cow::Owned(sql.replace(&FRACTION.to_string(), &fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_important_stock_follows_the_scale_factor() {
        assert!(query(IMPORTANT_STOCK, 1.0).contains("* 0.0001"));
        assert!(query(IMPORTANT_STOCK, 0.1).contains("* 0.0010000000"));
    }
}
