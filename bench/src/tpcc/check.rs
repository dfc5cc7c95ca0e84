//! The consistency conditions (clause 3.3.2), each as a query that counts contradictions.
//!
//! Condition 11 of the standard holds only right after loading. Each delivery adds one to
//! `c_delivery_cnt` of a customer, so that it is extended here to hold at any time.

use super::Scale;
use crate::workload::Condition;

/// Orders of a district, counted once: its rows stand for its districts.
const PER_DISTRICT_ORDERS: &str = "(SELECT o_w_id, o_d_id, MAX(o_id) AS last_o_id, \
     COUNT(*) AS orders, SUM(o_ol_cnt) AS line_count FROM orders GROUP BY o_w_id, o_d_id)";
/// New orders of a district.
const PER_DISTRICT_NEW_ORDERS: &str = "(SELECT no_w_id, no_d_id, MAX(no_o_id) AS last_no_id, \
     MIN(no_o_id) AS first_no_id, COUNT(*) AS new_orders FROM new_order GROUP BY no_w_id, no_d_id)";
/// What customers have been delivered.
const PER_CUSTOMER_DELIVERED: &str = "(SELECT o_w_id, o_d_id, o_c_id, SUM(ol_amount) AS amount \
     FROM orders JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id \
     WHERE ol_delivery_d IS NOT NULL GROUP BY o_w_id, o_d_id, o_c_id)";
/// What customers have paid.
const PER_CUSTOMER_PAID: &str = "(SELECT h_c_w_id, h_c_d_id, h_c_id, SUM(h_amount) AS amount \
     FROM history GROUP BY h_c_w_id, h_c_d_id, h_c_id)";

/// All twelve.
pub fn conditions(scale: Scale) -> Vec<Condition> {
    let condition = |name, meaning, violations: String| Condition { name, meaning, violations };
    vec![
        condition(
            "3.3.2.1",
            "W_YTD = sum(D_YTD)",
            "SELECT COUNT(*) FROM warehouse LEFT JOIN (SELECT d_w_id, SUM(d_ytd) AS ytd \
             FROM district GROUP BY d_w_id) AS d ON d_w_id = w_id \
             WHERE ytd IS NULL OR w_ytd <> ytd"
                .to_owned(),
        ),
        condition(
            "3.3.2.2",
            "D_NEXT_O_ID - 1 = max(O_ID) = max(NO_O_ID)",
            format!(
                "SELECT COUNT(*) FROM district \
                 LEFT JOIN {PER_DISTRICT_ORDERS} AS o ON o_w_id = d_w_id AND o_d_id = d_id \
                 LEFT JOIN {PER_DISTRICT_NEW_ORDERS} AS n ON no_w_id = d_w_id AND no_d_id = d_id \
                 WHERE last_o_id IS NULL OR d_next_o_id - 1 <> last_o_id \
                 OR (last_no_id IS NOT NULL AND last_no_id <> last_o_id)"
            ),
        ),
        condition(
            "3.3.2.3",
            "max(NO_O_ID) - min(NO_O_ID) + 1 = number of new orders",
            format!(
                "SELECT COUNT(*) FROM {PER_DISTRICT_NEW_ORDERS} AS n \
                 WHERE last_no_id - first_no_id + 1 <> new_orders"
            ),
        ),
        condition(
            "3.3.2.4",
            "sum(O_OL_CNT) = number of order lines of the district",
            format!(
                "SELECT COUNT(*) FROM {PER_DISTRICT_ORDERS} AS o \
                 LEFT JOIN (SELECT ol_w_id, ol_d_id, COUNT(*) AS lines_there FROM order_line \
                 GROUP BY ol_w_id, ol_d_id) AS l ON ol_w_id = o_w_id AND ol_d_id = o_d_id \
                 WHERE lines_there IS NULL OR line_count <> lines_there"
            ),
        ),
        condition(
            "3.3.2.5",
            "O_CARRIER_ID is null exactly for new orders",
            "SELECT COUNT(*) FROM orders LEFT JOIN new_order \
             ON no_w_id = o_w_id AND no_d_id = o_d_id AND no_o_id = o_id \
             WHERE (o_carrier_id IS NULL) <> (no_o_id IS NOT NULL)"
                .to_owned(),
        ),
        condition(
            "3.3.2.6",
            "O_OL_CNT = number of order lines of the order",
            "SELECT COUNT(*) FROM orders LEFT JOIN (SELECT ol_w_id, ol_d_id, ol_o_id, \
             COUNT(*) AS lines_there FROM order_line GROUP BY ol_w_id, ol_d_id, ol_o_id) AS l \
             ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id \
             WHERE lines_there IS NULL OR o_ol_cnt <> lines_there"
                .to_owned(),
        ),
        condition(
            "3.3.2.7",
            "OL_DELIVERY_D is null exactly for orders without a carrier",
            "SELECT COUNT(*) FROM order_line LEFT JOIN orders \
             ON o_w_id = ol_w_id AND o_d_id = ol_d_id AND o_id = ol_o_id \
             WHERE o_id IS NULL OR (ol_delivery_d IS NULL) <> (o_carrier_id IS NULL)"
                .to_owned(),
        ),
        condition(
            "3.3.2.8",
            "W_YTD = sum(H_AMOUNT) of the warehouse",
            "SELECT COUNT(*) FROM warehouse LEFT JOIN (SELECT h_w_id, SUM(h_amount) AS amount \
             FROM history GROUP BY h_w_id) AS h ON h_w_id = w_id \
             WHERE amount IS NULL OR w_ytd <> amount"
                .to_owned(),
        ),
        condition(
            "3.3.2.9",
            "D_YTD = sum(H_AMOUNT) of the district",
            "SELECT COUNT(*) FROM district LEFT JOIN (SELECT h_w_id, h_d_id, \
             SUM(h_amount) AS amount FROM history GROUP BY h_w_id, h_d_id) AS h \
             ON h_w_id = d_w_id AND h_d_id = d_id WHERE amount IS NULL OR d_ytd <> amount"
                .to_owned(),
        ),
        condition(
            "3.3.2.10",
            "C_BALANCE = sum(OL_AMOUNT) delivered - sum(H_AMOUNT)",
            format!(
                "SELECT COUNT(*) FROM customer \
                 LEFT JOIN {PER_CUSTOMER_DELIVERED} AS o \
                 ON o_w_id = c_w_id AND o_d_id = c_d_id AND o_c_id = c_id \
                 LEFT JOIN {PER_CUSTOMER_PAID} AS h \
                 ON h_c_w_id = c_w_id AND h_c_d_id = c_d_id AND h_c_id = c_id \
                 WHERE c_balance <> COALESCE(o.amount, 0) - COALESCE(h.amount, 0)"
            ),
        ),
        condition(
            "3.3.2.11",
            "orders - new orders = those delivered when loaded and since",
            format!(
                "SELECT COUNT(*) FROM {PER_DISTRICT_ORDERS} AS o \
                 JOIN (SELECT c_w_id, c_d_id, SUM(c_delivery_cnt) AS delivered FROM customer \
                 GROUP BY c_w_id, c_d_id) AS c ON c_w_id = o_w_id AND c_d_id = o_d_id \
                 LEFT JOIN {PER_DISTRICT_NEW_ORDERS} AS n \
                 ON no_w_id = o_w_id AND no_d_id = o_d_id \
                 WHERE orders - COALESCE(new_orders, 0) <> {} + delivered",
                scale.delivered_orders()
            ),
        ),
        condition(
            "3.3.2.12",
            "C_BALANCE + C_YTD_PAYMENT = sum(OL_AMOUNT) delivered",
            format!(
                "SELECT COUNT(*) FROM customer LEFT JOIN {PER_CUSTOMER_DELIVERED} AS o \
                 ON o_w_id = c_w_id AND o_d_id = c_d_id AND o_c_id = c_id \
                 WHERE c_balance + c_ytd_payment <> COALESCE(amount, 0)"
            ),
        ),
    ]
}
