//! Samples of parts, merged, against the rows they were made of.

use cairn_expr::EvalContext;
use cairn_types::codec::{decode_datum_key, encode_datum_key};
use cairn_types::keys::{encode_row_key, row_range};
use cairn_types::row::encode_row;
use cairn_types::{ColumnId, Datum, DatumRef, FieldType, Handle, TableId};

use super::*;
use crate::build_fragment;
use crate::context::ExecContext;
use crate::memory::MemoryTracker;
use crate::plan::{EvalSettings, Fragment, OpDesc, SampleColumn, ScanColumn, TableScanDesc};
use crate::source::KeyRange;
use crate::testing::{MemorySource, collect_rows};

const TABLE: TableId = TableId(7);

/// `(id BIGINT, n BIGINT NULL, name VARCHAR)`.
fn types() -> Vec<FieldType> {
    vec![FieldType::bigint(), FieldType::bigint(), FieldType::varchar(1_000)]
}

fn fragment(desc: SampleDesc) -> Fragment {
    let types = types();
    let columns = vec![
        ScanColumn::handle(ColumnId(1), types[0].clone()),
        ScanColumn::new(ColumnId(2), types[1].clone()),
        ScanColumn::new(ColumnId(3), types[2].clone()),
    ];
    let scan = TableScanDesc { table_id: TABLE, columns, desc: false, handle_types: vec![] };
    let operators = vec![OpDesc::TableScan(scan), OpDesc::Sample(desc)];
    Fragment { operators, settings: EvalSettings::default() }
}

fn request(sample_rows: u32) -> SampleDesc {
    let column = |input| SampleColumn { input, prefix_chars: None };
    SampleDesc {
        columns: vec![
            column(0),
            column(1),
            column(2),
            SampleColumn { input: 2, prefix_chars: Some(1) },
        ],
        groups: vec![vec![1, 2], vec![1, 3]],
        sample_rows,
        weight_min: 0,
        seed: 42,
    }
}

/// Rows `0..rows`: every tenth `n` is NULL, others repeat after a hundred; names have a head of three.
fn table(rows: i64) -> MemorySource {
    MemorySource::new((0..rows).map(|id| {
        let n = if id % 10 == 0 { DatumRef::Null } else { DatumRef::Int(id % 100) };
        let name = format!("{}x{}", ["a", "Ä", "c"][id as usize % 3], id % 7);
        let columns = [(ColumnId(2), n), (ColumnId(3), DatumRef::Bytes(name.as_bytes()))];
        (encode_row_key(TABLE, &Handle::Int(id)), encode_row(columns).unwrap())
    }))
}

/// Runs the request over the rows in tasks that begin at these ids.
async fn run(desc: &SampleDesc, rows: i64, starts: &[i64]) -> Result<Sampled> {
    let source = table(rows).shared();
    let mut merger = SampleMerger::new(desc);
    let key = |id: i64| Bytes::from(encode_row_key(TABLE, &Handle::Int(id)));
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).map_or(row_range(TABLE).1.into(), |id| key(*id));
        let sent = fragment(desc.clone()).to_proto()?;
        let received = Fragment::from_proto(&sent)?;
        assert_eq!(received, fragment(desc.clone()));
        let ranges = vec![KeyRange::new(key(*start), end)];
        let ctx = ExecContext::new(EvalContext::default());
        let operator = build_fragment(&received, ranges, source.clone(), ctx)?;
        for row in collect_rows(operator).await? {
            merger.add(row[0].as_bytes().expect("a part"))?;
        }
    }
    Ok(merger.finish())
}

#[tokio::test]
async fn small_tables_are_counted_exactly() {
    let sampled = run(&request(10_000), 1_000, &[0]).await.unwrap();
    assert_eq!(sampled.rows, 1_000);
    let counts = |counts: &Counts| (counts.null_count, counts.distinct.estimate());
    let columns: Vec<_> = sampled.columns.iter().map(counts).collect();
    // The collation takes ä for a.
    assert_eq!(columns, [(0, 1_000.0), (100, 90.0), (0, 14.0), (0, 2.0)]);
    assert_eq!(sampled.columns[2].total_bytes, 3 * 1_000 + 333, "Ä has two bytes");
    let groups: Vec<_> = sampled.groups.iter().map(counts).collect();
    assert_eq!(groups[1], (0, 200.0 - 18.0));
    assert_eq!(sampled.sample.len(), 1_000);
    let ids: Vec<Datum> = sampled.sample.iter().map(id_of).collect();
    assert_eq!(ids, (0..1_000).map(Datum::Int).collect::<Vec<_>>(), "in the order of handles");
    assert_eq!(&sampled.sample[1].texts[2][..], "Äx1".as_bytes());
    assert!(sampled.sample[1].texts[0].is_empty());
}

fn id_of(row: &SampledRow) -> Datum {
    decode_datum_key(&mut &row.keys[0][..], &types()[0]).unwrap()
}

#[tokio::test]
async fn parts_of_regions_merge_into_what_one_task_finds() {
    let whole = run(&request(500), 5_000, &[0]).await.unwrap();
    let parts = run(&request(500), 5_000, &[0, 10, 2_500, 4_999]).await.unwrap();
    assert_eq!(parts.rows, whole.rows);
    for (a, b) in
        parts.columns.iter().chain(&parts.groups).zip(whole.columns.iter().chain(&whole.groups))
    {
        assert_eq!(a.null_count, b.null_count);
        assert_eq!(a.total_bytes, b.total_bytes);
        assert_eq!(a.distinct.estimate(), b.distinct.estimate());
    }
    assert_eq!((parts.sample.len(), whole.sample.len()), (500, 500));
    // Every part of the table is as likely as any other.
    for quarter in 0..4 {
        let in_quarter = |row: &&SampledRow| match id_of(row) {
            Datum::Int(id) => id / 1_250 == quarter,
            _ => false,
        };
        let rows = parts.sample.iter().filter(in_quarter).count();
        assert!((85..=165).contains(&rows), "{rows} of 125 rows");
    }
}

#[tokio::test]
async fn a_fraction_of_the_rows_is_sampled_by_a_floor() {
    let desc = SampleDesc { weight_min: u64::MAX / 10 * 9, ..request(10_000) };
    let sampled = run(&desc, 10_000, &[0, 1_000]).await.unwrap();
    assert_eq!(sampled.rows, 10_000);
    assert!((850..1_150).contains(&sampled.sample.len()), "{} rows", sampled.sample.len());
}

#[test]
fn memory_is_bounded_by_a_floor_that_all_parts_share() {
    let row = |weight: u64| SampledRow {
        weight,
        place: (Bytes::new(), weight),
        keys: vec![Bytes::from(vec![0; 1_000])],
        texts: vec![],
    };
    let mut reservoir = Reservoir::new(1_000, 0, 100_000);
    (1..=500).for_each(|weight| reservoir.add(row(weight * 7 % 501)));
    assert!(reservoir.bytes() <= 100_000);
    let floor = reservoir.floor();
    assert!(!reservoir.takes(floor));
    let mut weights: Vec<u64> = reservoir.into_rows().map(|row| row.weight).collect();
    weights.sort_unstable();
    assert_eq!(weights, (floor + 1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn long_values_count_by_their_beginning() {
    let text = "é".repeat(400);
    let columns = [(ColumnId(2), DatumRef::Null), (ColumnId(3), DatumRef::Bytes(text.as_bytes()))];
    let source =
        MemorySource::new([(encode_row_key(TABLE, &Handle::Int(1)), encode_row(columns).unwrap())]);
    let (start, end) = row_range(TABLE);
    let ranges = vec![KeyRange::new(start, end)];
    let ctx = ExecContext::new(EvalContext::default());
    let operator = build_fragment(&fragment(request(10)), ranges, source.shared(), ctx).unwrap();
    let rows = collect_rows(operator).await.unwrap();
    let mut merger = SampleMerger::new(&request(10));
    merger.add(rows[0][0].as_bytes().unwrap()).unwrap();
    let sampled = merger.finish();
    assert_eq!(&sampled.sample[0].texts[2][..], "é".repeat(128).as_bytes());
    let mut key = Vec::new();
    encode_datum_key(&mut key, &DatumRef::Bytes("é".repeat(128).as_bytes()), &types()[2]);
    assert_eq!(&sampled.sample[0].keys[2][..], key);
    assert_eq!(sampled.columns[2].total_bytes, 800);
}

#[tokio::test]
async fn unsound_requests_and_parts_are_refused_and_memory_has_a_limit() {
    let column = SampleColumn { input: 9, prefix_chars: None };
    for bad in [
        SampleDesc { columns: vec![column], ..request(1) },
        SampleDesc { groups: vec![vec![4]], ..request(1) },
    ] {
        assert!(fragment(bad).validate().is_err());
    }
    let mut merger = SampleMerger::new(&request(1));
    let of = cop::SampleCounts { of: 6, ..Default::default() };
    let beyond = cop::SamplePart { counts: vec![of], ..Default::default() }.encode_to_vec();
    let short = cop::SampledRow { weight: 5, ..Default::default() };
    let short = cop::SamplePart { sample: vec![short], ..Default::default() }.encode_to_vec();
    for bad in [&b"\xff"[..], &beyond, &short] {
        assert!(merger.add(bad).is_err());
    }
    let (start, end) = row_range(TABLE);
    let ranges = vec![KeyRange::new(start, end)];
    let memory = MemoryTracker::root("statement", 100_000);
    let ctx = ExecContext::new(EvalContext::default()).with_memory(memory.clone());
    let desc = fragment(request(10_000));
    let operator = build_fragment(&desc, ranges.clone(), table(5_000).shared(), ctx).unwrap();
    let error = collect_rows(operator).await.expect_err("no memory");
    assert!(matches!(error, ExecError::MemoryExceeded { .. }), "{error}");
    assert_eq!(memory.used_bytes(), 0);
    let ctx = ExecContext::new(EvalContext::default());
    ctx.cancel.cancel();
    let operator = build_fragment(&desc, ranges, table(5_000).shared(), ctx).unwrap();
    let error = collect_rows(operator).await.expect_err("cancelled");
    assert!(matches!(error, ExecError::Cancelled), "{error}");
}
