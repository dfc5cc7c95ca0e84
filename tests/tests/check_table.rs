//! `ADMIN CHECK TABLE` finds rows without their entries and entries without their rows; writes that
//! meet them write nothing.

use std::sync::Arc;

use cairn_kv_client::{ClientConfig, GrpcConnector, KeyRange, KvClient, ScanOptions};
use cairn_pd_client::{GrpcPdClient, PdClient};
use cairn_tests::playground::Layout;
use cairn_tests::{HarnessError, Playground};
use cairn_types::{DatumRef, FieldType, Handle, TableId, keys};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

const CHECK: &str = "ADMIN CHECK TABLE checks.t";

async fn check(conn: &mut Conn) -> (u16, String) {
    outcome(conn, CHECK).await
}

/// Error number and message; of success, 0.
async fn outcome(conn: &mut Conn, statement: &str) -> (u16, String) {
    match conn.query_drop(statement).await {
        Ok(()) => (0, String::new()),
        Err(Error::Server(error)) => (error.code, error.message),
        Err(error) => panic!("{error}"),
    }
}

/// Removes the first or last key of a table, past SQL; answers it.
async fn tear_out(kv: &Arc<KvClient>, table: TableId, last: bool) -> Vec<u8> {
    let transaction = kv.begin(kv.current_ts().await.expect("a timestamp"));
    let (start, end) = keys::table_range(table);
    let options = ScanOptions { reverse: last, batch_size: 1, ..ScanOptions::default() };
    let mut scan = transaction.snapshot().scan(KeyRange::new(start, end), options);
    let found = scan.next_batch().await.expect("the table can be read");
    let (key, _) = found.into_iter().next().expect("it is not empty");
    transaction.delete(key.clone()).expect("it fits");
    transaction.commit().await.expect("it commits");
    key.to_vec()
}

/// A way to the keys past SQL, and the table that the tests are about.
async fn past_sql(cluster: &Playground, conn: &mut Conn) -> (Arc<KvClient>, TableId) {
    let pd = cluster.pd().expect("a playground of processes says where PD is");
    let pd = Arc::new(GrpcPdClient::connect(&[pd]).await.expect("PD answers"));
    let kv =
        KvClient::new(pd as Arc<dyn PdClient>, Arc::new(GrpcConnector), ClientConfig::default());
    let ids = "SELECT DISTINCT TABLE_ID FROM information_schema.tikv_region_status \
               WHERE DB_NAME = 'checks' AND TABLE_NAME = 't'";
    let table = conn.query_first(ids).await.expect("a system table").expect("the table has one");
    (kv, TableId(table))
}

#[tokio::test]
async fn rows_and_entries_that_disagree_are_found() -> Result<(), HarnessError> {
    let cluster = Playground::start(Layout::Processes { stores: 1 }).await?;
    let mut conn = cluster.connect("").await?;
    for statement in [
        "CREATE DATABASE checks",
        "CREATE TABLE checks.t (id INT PRIMARY KEY, n INT, s VARCHAR(20), KEY by_n (n), \
         UNIQUE KEY by_s (s))",
        "INSERT INTO checks.t VALUES (1, 10, 'One'), (2, 20, 'Two'), (3, NULL, NULL)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    assert_eq!(check(&mut conn).await.0, 0);

    let (kv, table) = past_sql(&cluster, &mut conn).await;

    // Index entries come before rows: the first key is the entry of NULL in `by_n`.
    tear_out(&kv, table, false).await;
    let (code, message) = check(&mut conn).await;
    assert_eq!(code, 8223, "{message}");
    assert_eq!(
        message,
        "data inconsistency in table: t, index: by_n, handle: 3, index-values:\"\" != \
         record-values:\"NULL\""
    );
    let answer: Option<Row> = conn.query_first("CHECK TABLE checks.t").await.expect("it answers");
    let answer: (String, String, String, String) = mysql_async::from_row(answer.expect("a row"));
    assert_eq!((&*answer.0, &*answer.1, &*answer.2), ("checks.t", "check", "Error"));
    assert_eq!(answer.3, message);

    // The last key is the row whose entry is missing: then one entry in `by_s` is left over.
    tear_out(&kv, table, true).await;
    let (code, message) = check(&mut conn).await;
    assert_eq!(code, 8223, "{message}");
    assert_eq!(
        message,
        "data inconsistency in table: t, index: by_s, handle: 3, index-values:\"NULL\" != \
         record-values:\"\""
    );
    kv.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}

#[tokio::test]
async fn writes_that_meet_a_disagreement_write_nothing() -> Result<(), HarnessError> {
    let cluster = Playground::start(Layout::Processes { stores: 1 }).await?;
    let mut conn = cluster.connect("").await?;
    for statement in [
        "CREATE DATABASE checks",
        "CREATE TABLE checks.t (id INT PRIMARY KEY, n INT, KEY by_n (n))",
        "INSERT INTO checks.t VALUES (1, 10), (2, 20), (3, 30)",
    ] {
        conn.query_drop(statement).await.expect(statement);
    }
    let (kv, table) = past_sql(&cluster, &mut conn).await;
    // The row of 10 has no entry, and there is one for a row that is not there.
    let torn_out = tear_out(&kv, table, false).await;
    let index = keys::decode_index_key(&torn_out).expect("entries come first").index;
    let stray = kv.begin(kv.current_ts().await.expect("a timestamp"));
    let indexed = [(DatumRef::Int(40), &FieldType::int())];
    let key = keys::encode_index_key(table, index, indexed, Some(&Handle::Int(4)));
    stray.set(key.into(), keys::encode_index_value(None, None).into()).expect("it fits");
    stray.commit().await.expect("it commits");
    let rows = "SELECT id, n FROM checks.t IGNORE INDEX (by_n) ORDER BY id";
    let before: Vec<(i64, i64)> = conn.query(rows).await.expect("the rows can be read");
    assert_eq!(before, [(1, 10), (2, 20), (3, 30)]);

    for statement in [
        "UPDATE checks.t SET n = n + 1",
        "DELETE FROM checks.t WHERE id = 1",
        "INSERT INTO checks.t VALUES (5, 50), (4, 40)",
    ] {
        let (code, message) = outcome(&mut conn, statement).await;
        assert_eq!(code, 8141, "{statement}: {message}");
        assert!(message.starts_with("assertion failed: key: 74"), "{message}");
        // Found at COMMIT as well.
        conn.query_drop("BEGIN").await.expect("begins");
        conn.query_drop("UPDATE checks.t SET n = 21 WHERE id = 2").await.expect("a sound row");
        conn.query_drop(statement).await.expect("nothing was committed");
        assert_eq!(outcome(&mut conn, "COMMIT").await.0, 8141, "{statement}");
        let after: Vec<(i64, i64)> = conn.query(rows).await.expect("the rows can be read");
        assert_eq!(after, before, "{statement}");
    }

    // Who must go on all the same can.
    conn.query_drop("SET tidb_txn_assertion_level = OFF").await.expect("a variable");
    conn.query_drop("DELETE FROM checks.t WHERE id = 1").await.expect("nobody looks");
    conn.query_drop("INSERT INTO checks.t VALUES (4, 40)").await.expect("nobody looks");
    assert_eq!(check(&mut conn).await, (0, String::new()));
    kv.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}
