//! The tables of TPC-H (clause 1.4), with the keys that the standard allows: primary keys, and
//! indexes on foreign keys.

use crate::workload::{Condition, Table};

/// All tables, in the order of their foreign keys.
pub fn tables() -> Vec<Table> {
    let table = |name, create: &str| Table { name, create: create.to_owned() };
    vec![
        table(
            "region",
            "CREATE TABLE region (r_regionkey INT NOT NULL PRIMARY KEY, r_name CHAR(25) NOT NULL, \
             r_comment VARCHAR(152))",
        ),
        table(
            "nation",
            "CREATE TABLE nation (n_nationkey INT NOT NULL PRIMARY KEY, n_name CHAR(25) NOT NULL, \
             n_regionkey INT NOT NULL, n_comment VARCHAR(152), KEY (n_regionkey))",
        ),
        table(
            "supplier",
            "CREATE TABLE supplier (s_suppkey BIGINT NOT NULL PRIMARY KEY, s_name CHAR(25) NOT NULL, \
             s_address VARCHAR(40) NOT NULL, s_nationkey INT NOT NULL, s_phone CHAR(15) NOT NULL, \
             s_acctbal DECIMAL(15,2) NOT NULL, s_comment VARCHAR(101) NOT NULL, KEY (s_nationkey))",
        ),
        table(
            "customer",
            "CREATE TABLE customer (c_custkey BIGINT NOT NULL PRIMARY KEY, \
             c_name VARCHAR(25) NOT NULL, c_address VARCHAR(40) NOT NULL, \
             c_nationkey INT NOT NULL, c_phone CHAR(15) NOT NULL, \
             c_acctbal DECIMAL(15,2) NOT NULL, c_mktsegment CHAR(10) NOT NULL, \
             c_comment VARCHAR(117) NOT NULL, KEY (c_nationkey))",
        ),
        table(
            "part",
            "CREATE TABLE part (p_partkey BIGINT NOT NULL PRIMARY KEY, p_name VARCHAR(55) NOT NULL, \
             p_mfgr CHAR(25) NOT NULL, p_brand CHAR(10) NOT NULL, p_type VARCHAR(25) NOT NULL, \
             p_size INT NOT NULL, p_container CHAR(10) NOT NULL, \
             p_retailprice DECIMAL(15,2) NOT NULL, p_comment VARCHAR(23) NOT NULL)",
        ),
        table(
            "partsupp",
            "CREATE TABLE partsupp (ps_partkey BIGINT NOT NULL, ps_suppkey BIGINT NOT NULL, \
             ps_availqty INT NOT NULL, ps_supplycost DECIMAL(15,2) NOT NULL, \
             ps_comment VARCHAR(199) NOT NULL, PRIMARY KEY (ps_partkey, ps_suppkey), \
             KEY (ps_suppkey))",
        ),
        table(
            "orders",
            "CREATE TABLE orders (o_orderkey BIGINT NOT NULL PRIMARY KEY, o_custkey BIGINT NOT NULL, \
             o_orderstatus CHAR(1) NOT NULL, o_totalprice DECIMAL(15,2) NOT NULL, \
             o_orderdate DATE NOT NULL, o_orderpriority CHAR(15) NOT NULL, \
             o_clerk CHAR(15) NOT NULL, o_shippriority INT NOT NULL, \
             o_comment VARCHAR(79) NOT NULL, KEY (o_custkey))",
        ),
        table(
            "lineitem",
            "CREATE TABLE lineitem (l_orderkey BIGINT NOT NULL, l_partkey BIGINT NOT NULL, \
             l_suppkey BIGINT NOT NULL, l_linenumber INT NOT NULL, \
             l_quantity DECIMAL(15,2) NOT NULL, l_extendedprice DECIMAL(15,2) NOT NULL, \
             l_discount DECIMAL(15,2) NOT NULL, l_tax DECIMAL(15,2) NOT NULL, \
             l_returnflag CHAR(1) NOT NULL, l_linestatus CHAR(1) NOT NULL, \
             l_shipdate DATE NOT NULL, l_commitdate DATE NOT NULL, l_receiptdate DATE NOT NULL, \
             l_shipinstruct CHAR(25) NOT NULL, l_shipmode CHAR(10) NOT NULL, \
             l_comment VARCHAR(44) NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber), \
             KEY (l_partkey, l_suppkey), KEY (l_suppkey))",
        ),
    ]
}

/// Rows are complete, and refer to each other as they should.
pub fn conditions(scale: f64) -> Vec<Condition> {
    let rows = |name: &'static str, table: &str, at_one: f64| Condition {
        name,
        meaning: "the table has the rows of its scale factor",
        violations: format!("SELECT COUNT(*) <> {} FROM {table}", (at_one * scale).round() as u64),
    };
    vec![
        rows("suppliers", "supplier", 10_000.0),
        rows("parts", "part", 200_000.0),
        rows("customers", "customer", 150_000.0),
        rows("offers", "partsupp", 800_000.0),
        rows("orders", "orders", 1_500_000.0),
        Condition {
            name: "lines",
            meaning: "every line belongs to an order",
            violations: "SELECT COUNT(*) FROM lineitem LEFT JOIN orders \
                         ON o_orderkey = l_orderkey WHERE o_orderkey IS NULL"
                .to_owned(),
        },
    ]
}
