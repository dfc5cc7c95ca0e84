//! `ADMIN CHECK TABLE` finds rows without their entries and entries without their rows.

use std::sync::Arc;

use cairn_kv_client::{ClientConfig, GrpcConnector, KeyRange, KvClient, ScanOptions};
use cairn_pd_client::{GrpcPdClient, PdClient};
use cairn_tests::playground::Layout;
use cairn_tests::{HarnessError, Playground};
use cairn_types::{TableId, keys};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Row};

const CHECK: &str = "ADMIN CHECK TABLE checks.t";

/// Error number and message; of success, 0.
async fn check(conn: &mut Conn) -> (u16, String) {
    match conn.query_drop(CHECK).await {
        Ok(()) => (0, String::new()),
        Err(Error::Server(error)) => (error.code, error.message),
        Err(error) => panic!("{error}"),
    }
}

/// Removes the first or last key of a table, past SQL.
async fn tear_out(kv: &Arc<KvClient>, table: TableId, last: bool) {
    let transaction = kv.begin(kv.current_ts().await.expect("a timestamp"));
    let (start, end) = keys::table_range(table);
    let options = ScanOptions { reverse: last, batch_size: 1, ..ScanOptions::default() };
    let mut scan = transaction.snapshot().scan(KeyRange::new(start, end), options);
    let found = scan.next_batch().await.expect("the table can be read");
    let (key, _) = found.into_iter().next().expect("it is not empty");
    transaction.delete(key).expect("it fits");
    transaction.commit().await.expect("it commits");
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

    let pd = cluster.pd().expect("a playground of processes says where PD is");
    let pd = Arc::new(GrpcPdClient::connect(&[pd]).await.expect("PD answers"));
    let kv =
        KvClient::new(pd as Arc<dyn PdClient>, Arc::new(GrpcConnector), ClientConfig::default());
    let ids = "SELECT DISTINCT TABLE_ID FROM information_schema.tikv_region_status \
               WHERE DB_NAME = 'checks' AND TABLE_NAME = 't'";
    let table = conn.query_first(ids).await.expect("a system table").expect("the table has one");

    // Index entries come before rows: the first key is the entry of NULL in `by_n`.
    tear_out(&kv, TableId(table), false).await;
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
    tear_out(&kv, TableId(table), true).await;
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
