//! What work costs.
//!
//! Costs are in units of reading one row of a table in key order within a store.
//!
//! | access path | cost |
//! |---|---|
//! | table | rows × `scan_row` + rows × filters × `filter_row` + result × `send_row` |
//! | index that holds all | rows × `scan_entry` + … |
//! | index, then rows | rows × `scan_entry` + rows after index filters × `lookup_row` + … |
//!
//! | join | cost besides that of its inputs |
//! |---|---|
//! | by hash | (left rows + right rows) × `hash_row` |
//! | in the stores | build rows × `broadcast_copies` × (`send_row` + `hash_row`) + probe rows × `hash_row` − (probe rows − rows sent × how much wider they are) × `send_row` |
//! | by index | outer rows × (`lookup_key` + access path of one key) + (outer + inner rows) × `hash_row` |
//!
//! A look-up costs less the more the order of the index is that of the rows: between `lookup_row`
//! and `scan_row`, by the square of the correlation, as in PostgreSQL's `cost_index`.
//!
//! Row counts come from [`crate::statistics`]. The factors are ratios to the row of a scan with
//! everything in the store's cache: what a key of an index join costs was measured (about ten rows
//! of a scan), the others are estimates of the same kind. They stand here and nowhere else.

/// What work costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostParams {
    /// Reading a row in key order.
    pub scan_row: f64,
    /// Reading an index entry in key order: narrower than a row.
    pub scan_entry: f64,
    /// Reading a row by its handle: a seek, mostly in the block cache. As much as a key of an index
    /// join costs, `seek_range` and `lookup_key`, where that was measured.
    pub lookup_row: f64,
    /// The same where nobody counted: how many rows are looked up is then mostly guessed too high,
    /// and indexes are there because somebody looks few rows up.
    pub lookup_guessed_row: f64,
    /// Testing one condition on a row.
    pub filter_row: f64,
    /// Sending a row to the SQL node.
    pub send_row: f64,
    /// Starting a scan of one more range.
    pub seek_range: f64,
    /// Putting a row into a hash table, or looking for its matches there.
    pub hash_row: f64,
    /// One more key of an index join besides the scan of its range: making the range, sending it,
    /// and a place in the data that no other key has warmed. With `seek_range` and one row it
    /// comes to about what stores measure (a row by its key costs as much as ten of a scan).
    pub lookup_key: f64,
    /// Sorting one row, per doubling of the number of rows.
    pub sort_row: f64,
    /// Stores that a join's build side is sent to. The planner does not know how many hold rows of a table;
    /// three is where a cluster begins.
    pub broadcast_copies: f64,
}

impl CostParams {
    /// The parameters of all plans.
    pub const DEFAULT: CostParams = CostParams {
        scan_row: 1.0,
        scan_entry: 0.4,
        lookup_row: 7.0,
        lookup_guessed_row: 2.0,
        filter_row: 0.1,
        send_row: 0.5,
        seek_range: 3.0,
        hash_row: 0.3,
        lookup_key: 4.0,
        sort_row: 0.3,
        broadcast_copies: 3.0,
    };

    /// Cost of looking up a row for an index entry, by how far the order of the entries is that of
    /// the rows (-1 to 1).
    pub fn lookup(&self, correlation: f64) -> f64 {
        let share = (correlation * correlation).min(1.0);
        self.lookup_row + (self.scan_row - self.lookup_row) * share
    }

    /// Cost of sending a join's build side to the stores, and of its hash tables there.
    pub fn broadcast(&self, rows: f64) -> f64 {
        rows * self.broadcast_copies * (self.send_row + self.hash_row)
    }

    /// Cost of sorting rows.
    pub fn sort(&self, rows: f64) -> f64 {
        self.sort_row * rows * rows.max(2.0).log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::guess::{LESS_FRACTION, PSEUDO_ROWS};

    #[test]
    fn looking_up_a_guessed_third_of_the_rows_beats_reading_all() {
        let cost = CostParams::DEFAULT;
        let rows = PSEUDO_ROWS;
        let table = rows * (cost.scan_row + 2.0 * cost.filter_row);
        let kept = rows * LESS_FRACTION;
        let index = kept * (cost.scan_entry + cost.lookup_guessed_row + cost.filter_row);
        assert!(index < table, "{index} {table}");
    }
}
