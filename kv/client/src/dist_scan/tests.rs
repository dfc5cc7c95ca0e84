//! Scans against the cluster in memory: every row exactly once, whatever breaks.

use std::sync::Arc;

use cairn_proto::cop::{EvalSettings, Fragment, Operator};
use cairn_proto::kv::region_error::Kind;
use cairn_proto::kv::{NotLeader, RegionNotFound, ServerIsBusy};

use crate::testing::{Cluster, Fault};
use crate::{DistScanRequest, KeyRange, KvClient, KvError, ScanOptions, ScanTable, ScanTables};

const KEYS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

fn filled(split: &[&'static str]) -> Arc<Cluster> {
    let cluster = Cluster::split_at(split);
    for key in KEYS {
        cluster.put(key, "v");
    }
    cluster
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    desc: bool,
    aggregate: bool,
    keep_order: bool,
    concurrency: usize,
}

fn request(client: &Arc<KvClient>, cluster: &Cluster, shape: Shape) -> crate::DistScan {
    // The mock's signs for "descending" and "no marks on pages".
    let mut fragment = Fragment::default();
    if shape.desc {
        fragment.settings = Some(EvalSettings::default());
    }
    if shape.aggregate {
        fragment.operators.push(Operator::default());
    }
    let ranges = vec![KeyRange::new("a", "d"), KeyRange::new("e", "l")];
    let mut request = DistScanRequest::new(cluster.ts(), Arc::new(fragment), ranges);
    request.desc = shape.desc;
    request.keep_order = shape.keep_order;
    request.concurrency = shape.concurrency;
    client.dist_scan(request)
}

async fn rows(mut scan: crate::DistScan) -> Result<Vec<String>, KvError> {
    let mut rows = Vec::new();
    while let Some(page) = scan.next().await {
        let text = String::from_utf8(page?.chunk.to_vec()).expect("keys");
        rows.extend(text.split(',').filter(|key| !key.is_empty()).map(str::to_owned));
    }
    Ok(rows)
}

fn shapes() -> impl Iterator<Item = Shape> {
    (0..16).map(|bits: u32| Shape {
        desc: bits & 1 > 0,
        aggregate: bits & 2 > 0,
        keep_order: bits & 4 > 0,
        concurrency: if bits & 8 > 0 { 3 } else { 1 },
    })
}

fn expected(shape: Shape, mut rows: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut wanted: Vec<String> =
        KEYS.iter().filter(|key| !["d", "l"].contains(*key)).map(|key| key.to_string()).collect();
    if shape.keep_order {
        if shape.desc {
            wanted.reverse();
        }
    } else {
        rows.sort();
    }
    (wanted, rows)
}

#[tokio::test(start_paused = true)]
async fn every_row_once_whatever_breaks() {
    let not_found = Kind::RegionNotFound(RegionNotFound::default());
    let faults = [
        None,
        Some(Fault::LostBefore),
        Some(Fault::Region(Kind::NotLeader(NotLeader::default()))),
        Some(Fault::Region(not_found)),
        Some(Fault::Split("b")),
        Some(Fault::Split("g")),
        Some(Fault::LeaderTo(2)),
    ];
    for split in [&[][..], &["c", "h"], &["a", "d", "e", "f", "l"]] {
        for shape in shapes() {
            for fault in &faults {
                for broken in [None, Some(0), Some(1), Some(2)] {
                    let cluster = filled(split);
                    let client = cluster.client();
                    if let Some(fault) = fault {
                        cluster.fault("coprocessor", fault.clone());
                    }
                    if let Some(pages) = broken {
                        cluster.break_stream_behind(pages);
                        cluster.break_stream_behind(pages);
                    }
                    let found = rows(request(&client, &cluster, shape)).await;
                    let told = format!("{split:?} {shape:?} {fault:?} {broken:?}");
                    let found = found.unwrap_or_else(|error| panic!("{told}: {error}"));
                    let (wanted, found) = expected(shape, found);
                    assert_eq!(found, wanted, "{told}");
                }
            }
        }
    }
}

/// A scan of everything that joins its rows with a table.
fn joining(client: &Arc<KvClient>, cluster: &Cluster, tables: &ScanTables) -> crate::DistScan {
    let ranges = vec![KeyRange::new("a", "m")];
    let request = DistScanRequest::new(cluster.ts(), Arc::new(Fragment::default()), ranges);
    client.dist_scan(DistScanRequest { tables: tables.clone(), ..request })
}

fn table_of(bytes: usize) -> ScanTables {
    ScanTables::new(vec![ScanTable { digest: "digest".into(), rows: vec![1; bytes].into() }])
}

#[tokio::test(start_paused = true)]
async fn a_store_is_sent_a_table_once_and_again_when_it_forgot_it() {
    let cluster = filled(&["c", "e", "h"]);
    let client = cluster.client();
    let times_sent = || cluster.calls().iter().filter(|call| *call == "rows@1").count();
    let tables = table_of(1 << 20);
    for (forget, sent) in [(false, 1), (false, 0), (true, 1), (false, 0)] {
        if forget {
            cluster.forget_tables();
        }
        let found = rows(joining(&client, &cluster, &tables)).await.expect("reads");
        assert_eq!(found.len(), KEYS.len(), "each row once");
        assert_eq!(times_sent(), sent, "forgotten: {forget}");
    }
    // Small ones are not worth the question.
    let small = table_of(100);
    rows(joining(&client, &cluster, &small)).await.expect("reads");
    assert_eq!(times_sent(), 4);
}

#[tokio::test(start_paused = true)]
async fn tables_reach_whoever_answers_in_the_end() {
    for fault in [Fault::LostBefore, Fault::LeaderTo(2), Fault::Split("g")] {
        for broken in [None, Some(1)] {
            let cluster = filled(&["c", "h"]);
            let client = cluster.client();
            cluster.fault("coprocessor", fault.clone());
            if let Some(pages) = broken {
                cluster.break_stream_behind(pages);
            }
            let mut found =
                rows(joining(&client, &cluster, &table_of(1 << 20))).await.expect("reads");
            found.sort();
            assert_eq!(found, KEYS, "{fault:?} {broken:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn split_while_reading() {
    let cluster = filled(&["h"]);
    let client = cluster.client();
    let shape = Shape { desc: false, aggregate: false, keep_order: true, concurrency: 1 };
    let mut scan = request(&client, &cluster, shape);
    let first = scan.next().await.expect("a page").expect("reads");
    assert_eq!(&first.chunk[..], b",a,b");
    // Both the region under way and the next one change under the reader.
    cluster.fault("coprocessor", Fault::Split("c"));
    cluster.fault("coprocessor", Fault::Split("j"));
    let rest = rows(scan).await.expect("reads");
    assert_eq!(rest, ["c", "e", "f", "g", "h", "i", "j", "k"]);
}

#[tokio::test(start_paused = true)]
async fn locks_are_resolved_and_the_task_goes_on() {
    for aggregate in [false, true] {
        let cluster = filled(&["f"]);
        let client = cluster.client();
        let dead = cluster.ts();
        cluster.leave_lock("g", "a", dead, 1_000);
        cluster.advance_ms(2_000);
        let shape = Shape { desc: false, aggregate, keep_order: true, concurrency: 3 };
        let found = rows(request(&client, &cluster, shape)).await.expect("reads");
        assert_eq!(expected(shape, found.clone()).0, found);
        assert!(cluster.locked_keys().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_scans_go_both_ways() {
    for split in [&[][..], &["c", "h"], &["a", "d", "e", "f", "l"]] {
        for batch_size in [1, 3, 100] {
            for reverse in [false, true] {
                for fault in [None, Some(Fault::Split("g")), Some(Fault::LeaderTo(2))] {
                    let cluster = filled(split);
                    let client = cluster.client();
                    if let Some(fault) = fault {
                        cluster.fault("scan", fault);
                    }
                    let dead = cluster.ts();
                    cluster.leave_lock("g", "a", dead, 1_000);
                    cluster.advance_ms(2_000);
                    let options = ScanOptions { reverse, batch_size, key_only: false };
                    let view = client.snapshot(cluster.ts());
                    let mut scan = view.scan(KeyRange::new("b", "l"), options);
                    let mut keys = Vec::new();
                    loop {
                        let batch = scan.next_batch().await.expect("reads");
                        if batch.is_empty() {
                            break;
                        }
                        assert!(batch.len() <= batch_size as usize);
                        keys.extend(batch.into_iter().map(|(key, _)| key));
                    }
                    if reverse {
                        keys.reverse();
                    }
                    let wanted = &KEYS[1..11];
                    assert_eq!(keys, wanted, "{split:?} {batch_size} {reverse}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_store_is_relieved_by_another_replica() {
    let cluster = filled(&[]);
    let client = cluster.client();
    let busy = Kind::ServerIsBusy(ServerIsBusy { reason: "queue".into(), backoff_ms: 5000 });
    let begin = tokio::time::Instant::now();
    cluster.fault("coprocessor", Fault::Region(busy.clone()));
    let shape = Shape { desc: false, aggregate: true, keep_order: true, concurrency: 1 };
    let rows = rows(request(&client, &cluster, shape)).await.expect("rows");
    assert_eq!(rows.len(), 10);
    cluster.fault("get", Fault::Region(busy.clone()));
    let snapshot = client.snapshot(cluster.ts());
    assert!(snapshot.get(b"a").await.expect("a value").is_some());
    assert_eq!(begin.elapsed().as_millis(), 0, "nobody waited");
    assert_eq!(cluster.calls(), ["coprocessor@1", "coprocessor@2", "get@1", "get@2"]);
    // Both are busy: the leader is asked again after the pause it wants.
    cluster.fault("get", Fault::Region(busy.clone()));
    cluster.fault("get", Fault::Region(busy));
    assert!(snapshot.get(b"b").await.expect("a value").is_some());
    assert!(begin.elapsed().as_millis() >= 5000);
    assert_eq!(cluster.calls(), ["get@1", "get@2", "get@1"]);
}
