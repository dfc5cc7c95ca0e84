//! Chunks: wire form, selection, reuse.

use proptest::prelude::*;

use super::*;
use crate::row::tests::typed_value;
use crate::{Collation, compare};

/// Columns, each with values of one type, all of one length.
fn any_columns() -> impl Strategy<Value = Vec<(FieldType, Vec<Datum>)>> {
    (0usize..9).prop_flat_map(|rows| {
        let column = typed_value().prop_map(move |(field_type, value)| {
            let values = (0..rows).map(|i| if i % 3 == 2 { Datum::Null } else { value.clone() });
            (field_type, values.collect::<Vec<_>>())
        });
        prop::collection::vec(column, 1..6)
    })
}

fn build(columns: &[(FieldType, Vec<Datum>)]) -> (Vec<FieldType>, Chunk) {
    let types: Vec<FieldType> = columns.iter().map(|(field_type, _)| field_type.clone()).collect();
    let mut chunk = Chunk::new(&types, 0);
    for (column, (_, values)) in chunk.columns.iter_mut().zip(columns) {
        values.iter().for_each(|value| column.push(value.as_ref()));
    }
    (types, chunk)
}

proptest! {
    #[test]
    fn the_wire_form_comes_back(columns in any_columns(), every in 1usize..4, select: bool) {
        let (types, mut chunk) = build(&columns);
        if select {
            chunk.sel = Some((0..chunk.num_rows() as u32).step_by(every).collect());
        }
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        let back = Chunk::decode(&bytes, &types).unwrap();
        prop_assert_eq!(&back, &chunk);
        for (column, (_, values)) in back.columns.iter().zip(&columns) {
            for (i, value) in values.iter().enumerate() {
                let same = compare(&column.get(i).to_owned(), value, Collation::BINARY);
                prop_assert!(same.is_eq(), "{:?} {:?}", column.get(i), value);
            }
        }
    }

    #[test]
    fn damaged_chunks_never_panic(columns in any_columns(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let (types, chunk) = build(&columns);
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        read_everything(&bytes, &types);
        bytes.truncate(cut.index(bytes.len()));
        read_everything(&bytes, &types);
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        read_everything(&bytes, &[FieldType::bigint(), FieldType::text()]);
    }

    #[test]
    fn copies_are_equal(columns in any_columns(), every in 1usize..4) {
        let (types, mut chunk) = build(&columns);
        let rows = chunk.num_rows();
        let mut by_row = Chunk::new(&types, 0);
        for row in (0..rows).step_by(every) {
            by_row.append_row_from(&chunk, row);
        }
        chunk.sel = Some((0..rows as u32).step_by(every).collect());
        let mut by_sel = Chunk::new(&types, 0);
        by_sel.append_chunk(&chunk);
        prop_assert_eq!(&by_sel, &by_row);
        chunk.compact();
        prop_assert_eq!(&chunk, &by_row);
        let mut by_range = Chunk::new(&types, 0);
        let middle = chunk.num_rows() / 2;
        for (to, from) in by_range.columns.iter_mut().zip(&chunk.columns) {
            to.append_range(from, 0, middle);
            to.append_range(from, middle, from.len());
        }
        prop_assert_eq!(&by_range, &by_row);
        chunk.truncate(middle);
        chunk.append_chunk(&by_row);
        prop_assert_eq!(chunk.num_rows(), middle + by_row.num_rows());
    }
}

fn read_everything(bytes: &[u8], types: &[FieldType]) {
    let Ok(chunk) = Chunk::decode(bytes, types) else { return };
    for row in chunk.selected() {
        let _ = chunk.row(row);
    }
}

#[test]
fn selection_and_limits() {
    let mut chunk = Chunk::new(&[FieldType::bigint()], 0);
    (0..6).for_each(|i| chunk.columns[0].push_int(i));
    chunk.sel = Some(vec![1, 3, 5]);
    chunk.slice_selected(1, 9);
    assert_eq!(chunk.selected().collect::<Vec<_>>(), [3, 5]);
    chunk.sel = None;
    chunk.slice_selected(0, 4);
    assert_eq!(chunk.num_rows(), 4);
    chunk.slice_selected(2, 3);
    assert_eq!(chunk.selected().collect::<Vec<_>>(), [2]);
    chunk.compact();
    assert_eq!(chunk.columns[0].as_int(), Some(&[2][..]));
}

#[test]
fn chunks_without_columns_count_rows() {
    let mut chunk = Chunk::new(&[], 0);
    chunk.set_rows_without_columns(3);
    let mut bytes = Vec::new();
    chunk.encode(&mut bytes);
    assert_eq!(Chunk::decode(&bytes, &[]).unwrap().num_rows(), 3);
}

#[test]
fn decimals_take_the_scale_of_their_column() {
    let mut column = Column::new(&FieldType::decimal(10, 2), 0);
    column.push(DatumRef::Decimal("1.005".parse().unwrap()));
    column.push(DatumRef::Int(3));
    assert_eq!(column.as_decimal64(), Some((&[101, 300][..], 2)));
}

#[test]
fn clear_keeps_buffers() {
    let types = [FieldType::bigint(), FieldType::text(), FieldType::decimal(10, 2)];
    let mut chunk = Chunk::new(&types, 4);
    let row = [Datum::Int(1), Datum::from("some text"), Datum::Decimal(crate::Decimal::ONE)];
    chunk.push_row(&row);
    let before = chunk.memory_bytes();
    chunk.clear();
    chunk.push_row(&row);
    assert_eq!(chunk.memory_bytes(), before);
    assert_eq!(chunk.num_rows(), 1);
}

#[test]
fn decimals_beyond_their_type_widen_the_column() {
    let types = [FieldType::decimal(5, 1)];
    let mut chunk = Chunk::new(&types, 0);
    let values = ["1.5", "12345678901234567890.5", "1234567890123456789012345678901234567890.5"];
    for value in values {
        chunk.columns[0].push(DatumRef::Decimal(value.parse().unwrap()));
    }
    let mut bytes = Vec::new();
    chunk.encode(&mut bytes);
    let back = Chunk::decode(&bytes, &types).unwrap();
    for (i, value) in values.iter().enumerate() {
        assert_eq!(back.get(0, i), DatumRef::Decimal(value.parse().unwrap()));
    }
}
