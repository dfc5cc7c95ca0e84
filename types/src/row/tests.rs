//! Rows come back, whatever the type; damage is refused.

use proptest::prelude::*;

use super::*;
use crate::chunk::Chunk;
use crate::datum::compare;
use crate::decimal::tests::any_decimal;
use crate::json::tests::any_json;
use crate::time::tests::any_time;
use crate::{Collation, text};

/// A column type with a value of it.
pub(crate) fn typed_value() -> impl Strategy<Value = (FieldType, Datum)> {
    fn of<T: Into<Datum> + std::fmt::Debug + 'static>(
        field_type: FieldType,
        values: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<(FieldType, Datum)> {
        prop_oneof![8 => values.prop_map(Into::into), 1 => Just(Datum::Null)]
            .prop_map(move |value| (field_type.clone(), value))
            .boxed()
    }
    prop_oneof![
        of(FieldType::int(), (i32::MIN..=i32::MAX).prop_map(i64::from)),
        of(FieldType::bigint(), any::<i64>()),
        of(FieldType::bigint_unsigned(), any::<u64>()),
        of(FieldType::year(), 1901u64..2155),
        of(FieldType::enumeration(["a", "b"]), 0u64..3),
        of(FieldType::double(), -1e300f64..1e300),
        of(FieldType::float(), -1e30f32..1e30),
        of(FieldType::varbinary(99), prop::collection::vec(any::<u8>(), 0..40)),
        of(FieldType::varchar(99), "[a-zé漢 ]{0,30}"),
        of(FieldType::datetime(6), any_time()),
        of(FieldType::date(), any_time().prop_map(|time| time.date_part())),
        of(
            FieldType::time(6),
            (-1_000_000_000i64..1_000_000_000).prop_map(|m| Duration::from_micros(m, 6).unwrap())
        ),
        of(FieldType::json(), any_json()),
        of(
            FieldType::decimal(18, 4),
            any::<i32>().prop_map(|m| Decimal::new(m.into(), 4).unwrap())
        ),
        of(
            FieldType::decimal(38, 9),
            any::<i64>().prop_map(|m| Decimal::new(m.into(), 9).unwrap())
        ),
        any_decimal().prop_map(|value| {
            let scale = value.scale();
            (FieldType::decimal(65, scale), value.into())
        }),
    ]
}

fn equal(a: &Datum, b: &Datum) -> bool {
    compare(a, b, Collation::BINARY).is_eq()
}

proptest! {
    #[test]
    fn rows_come_back(columns in prop::collection::vec(typed_value(), 0..12), stride in prop_oneof![Just(1i64), Just(37), Just(1_000_000)]) {
        let id = |i: usize| ColumnId(i as i64 * stride + 1);
        // Written backwards: the order of columns does not matter.
        let bytes = encode_row(columns.iter().enumerate().rev().map(|(i, (_, value))| (id(i), value.as_ref()))).unwrap();
        let row = RowView::parse(&bytes).unwrap();
        for (i, (field_type, value)) in columns.iter().enumerate() {
            let stored = row.get(id(i));
            let Some(Some(stored)) = stored else {
                prop_assert!(value.is_null() && stored == Some(None));
                continue;
            };
            let back = decode_value(stored, field_type).unwrap();
            prop_assert!(equal(&back, value), "{:?} {:?}", back, value);

            let mut column = Column::new(field_type, 1);
            append_value(&mut column, stored, field_type).unwrap();
            prop_assert!(equal(&column.get(0).to_owned(), value));

            let (mut direct, mut by_datum) = (Vec::new(), Vec::new());
            write_text_value(&mut direct, stored, field_type).unwrap();
            text::write_text(&mut by_datum, back.as_ref(), field_type);
            prop_assert_eq!(direct, by_datum);
        }
        prop_assert_eq!(row.get(ColumnId(0)), None);
        prop_assert_eq!(row.columns().count(), columns.len());
    }

    #[test]
    fn damaged_rows_never_panic(columns in prop::collection::vec(typed_value(), 0..6), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = encode_row(columns.iter().enumerate().map(|(i, (_, value))| (ColumnId(i as i64), value.as_ref()))).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        read_everything(&bytes, &columns);
    }

    #[test]
    fn any_bytes_never_panic(mut bytes: Vec<u8>, columns in prop::collection::vec(typed_value(), 1..4)) {
        read_everything(&bytes, &columns);
        bytes.splice(0..0, [VERSION, LAYOUT_SMALL]);
        read_everything(&bytes, &columns);
        for (field_type, _) in &columns {
            let _ = decode_value(&bytes, field_type);
            let mut chunk = Chunk::new(std::slice::from_ref(field_type), 1);
            let _ = append_value(&mut chunk.columns[0], &bytes, field_type);
            let _ = write_text_value(&mut Vec::new(), &bytes, field_type);
        }
    }
}

fn read_everything(bytes: &[u8], columns: &[(FieldType, Datum)]) {
    let Ok(row) = RowView::parse(bytes) else { return };
    for (i, (field_type, _)) in columns.iter().enumerate() {
        if let Some(Some(value)) = row.get(ColumnId(i as i64)) {
            let _ = decode_value(value, field_type);
        }
    }
    let _ = row.columns().count();
}

#[test]
fn small_rows_are_small() {
    let row = encode_row([
        (ColumnId(1), DatumRef::Int(1)),
        (ColumnId(2), DatumRef::Bytes(b"abc")),
        (ColumnId(3), DatumRef::Null),
    ]);
    // Header, three ids, two ends, four bytes of values.
    assert_eq!(row.unwrap().len(), 6 + 3 + 4 + 4);
}

#[test]
fn wide_rows_use_the_large_layout() {
    let long = vec![b'x'; 70_000];
    let row = encode_row([(ColumnId(300), DatumRef::Bytes(&long)), (ColumnId(2), DatumRef::Null)]);
    let row = row.unwrap();
    let view = RowView::parse(&row).unwrap();
    assert_eq!(view.get(ColumnId(300)), Some(Some(long.as_slice())));
    assert_eq!(view.get(ColumnId(2)), Some(None));
    assert_eq!(view.get(ColumnId(3)), None);
    assert!(RowEncoder::new().push(ColumnId(-1), DatumRef::Null).is_err());
}

#[test]
fn the_finder_finds_what_each_row_has() {
    let rows = [
        vec![(1, DatumRef::Int(1)), (2, DatumRef::Int(2))],
        vec![(1, DatumRef::Int(3)), (2, DatumRef::Int(4))],
        // As many columns, but one is NULL; others; the large layout with the same ids; none.
        vec![(1, DatumRef::Int(5)), (2, DatumRef::Null)],
        vec![(2, DatumRef::Int(6)), (3, DatumRef::Int(7))],
        vec![(1, DatumRef::Int(8)), (2, DatumRef::Int(9)), (300, DatumRef::Null)],
        vec![],
        vec![(1, DatumRef::Int(1)), (2, DatumRef::Int(2))],
    ];
    let wanted = [1, 2, 3, 300, -1].map(ColumnId);
    let mut finder = ColumnFinder::new(wanted);
    for row in rows {
        let bytes = encode_row(row.into_iter().map(|(id, value)| (ColumnId(id), value))).unwrap();
        let view = RowView::parse(&bytes).unwrap();
        let found = finder.find(&view);
        for (n, id) in wanted.iter().enumerate() {
            assert_eq!(found(n), view.get(*id), "{id:?}");
        }
    }
}
