//! Keys keep order and come back.

use proptest::prelude::*;

use super::*;
use crate::datum::{Datum, compare};
use crate::decimal::tests::any_decimal;
use crate::time::tests::any_time;
use crate::{Collation, Duration, FieldType};

/// A type with two of its values.
fn typed_pair() -> impl Strategy<Value = (FieldType, Datum, Datum)> {
    fn pair<T: Clone + Into<Datum> + std::fmt::Debug + 'static>(
        field_type: FieldType,
        values: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<(FieldType, Datum, Datum)> {
        let or_null = prop_oneof![8 => values.prop_map(Into::into), 1 => Just(Datum::Null)].boxed();
        (or_null.clone(), or_null).prop_map(move |(a, b)| (field_type.clone(), a, b)).boxed()
    }
    let duration = (-Duration::MAX_MICROS..=Duration::MAX_MICROS)
        .prop_map(|micros| Duration::from_micros(micros, 6).unwrap());
    prop_oneof![
        pair(FieldType::bigint(), any::<i64>()),
        pair(FieldType::bigint_unsigned(), any::<u64>()),
        pair(FieldType::double(), -1e300f64..1e300),
        pair(FieldType::float(), -1e30f32..1e30),
        pair(FieldType::varbinary(99), prop::collection::vec(any::<u8>(), 0..20)),
        pair(FieldType::varchar(99), "[a-cA-C é]{0,12}"),
        pair(FieldType::varchar(99).with_collation(Collation::UTF8MB4_BIN), "[a-c]{0,12}"),
        pair(FieldType::datetime(6), any_time().prop_map(|time| time.with_fsp(6))),
        pair(FieldType::time(6), duration),
        (any_decimal(), any_decimal(), any::<bool>()).prop_map(|(a, b, near)| {
            let b = if near { a.neg() } else { b };
            let scale = a.scale().max(b.scale());
            let field_type = FieldType::decimal(95, scale);
            (field_type, a.rescale(scale).unwrap_or(a).into(), b.rescale(scale).unwrap_or(b).into())
        }),
    ]
}

proptest! {
    #[test]
    fn keys_order_as_values((field_type, a, b) in typed_pair()) {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        encode_datum_key(&mut x, &a.as_ref(), &field_type);
        encode_datum_key(&mut y, &b.as_ref(), &field_type);
        prop_assert_eq!(x.cmp(&y), compare(&a, &b, field_type.collation), "{:?} {:?}", a, b);
        prop_assert_eq!(skip_datum_key(&x).unwrap(), x.len());
        x.extend_from_slice(&y);
        if key_is_restorable(&field_type) && field_type.code != crate::TypeCode::Decimal {
            let mut input = x.as_slice();
            let first = decode_datum_key(&mut input, &field_type).unwrap();
            prop_assert_eq!(compare(&first, &a, Collation::BINARY), std::cmp::Ordering::Equal);
            let second = decode_datum_key(&mut input, &field_type).unwrap();
            prop_assert_eq!(compare(&second, &b, Collation::BINARY), std::cmp::Ordering::Equal);
            prop_assert!(input.is_empty());
        }
    }

    #[test]
    fn in_place_is_the_same(head: Vec<u8>, bytes: Vec<u8>) {
        let (mut copied, mut in_place) = (head.clone(), head.clone());
        encode_bytes(&mut copied, &bytes);
        in_place.extend_from_slice(&bytes);
        encode_tail(&mut in_place, head.len());
        prop_assert_eq!(in_place, copied);
    }

    #[test]
    fn decimals_come_back(value in any_decimal()) {
        let mut key = Vec::new();
        encode_decimal(&mut key, &value);
        let mut input = key.as_slice();
        prop_assert_eq!(decode_decimal(&mut input).unwrap(), value);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn decoders_take_any_bytes(bytes: Vec<u8>) {
        for field_type in [
            FieldType::bigint(), FieldType::bigint_unsigned(), FieldType::double(), FieldType::float(),
            FieldType::varbinary(9), FieldType::varchar(9), FieldType::datetime(3), FieldType::time(0),
            FieldType::decimal(20, 5), FieldType::json(), FieldType::date(),
        ] {
            let mut input = bytes.as_slice();
            let _ = decode_datum_key(&mut input, &field_type);
        }
        let _ = skip_datum_key(&bytes);
        let _ = decode_decimal(&mut bytes.as_slice());
        let _ = decode_bytes(&mut bytes.as_slice(), &mut Vec::new());
    }
}

#[test]
fn flags_bound_values() {
    let mut key = Vec::new();
    encode_datum_key(&mut key, &Datum::Int(i64::MIN).as_ref(), &FieldType::bigint());
    assert!(key.as_slice() > &[flag::NOT_NULL_MIN][..] && key.as_slice() < &[flag::MAX][..]);
    let mut null = Vec::new();
    encode_datum_key(&mut null, &Datum::Null.as_ref(), &FieldType::bigint());
    assert!(null.as_slice() < &[flag::NOT_NULL_MIN][..]);
}

#[test]
fn newest_versions_come_first() {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    encode_u64_desc(&mut old, 1);
    encode_u64_desc(&mut new, 2);
    assert!(new < old);
    assert_eq!(decode_u64_desc(&mut new.as_slice()).unwrap(), 2);
}

#[test]
fn bytes_as_tikv_writes_them() {
    let mut out = Vec::new();
    encode_bytes(&mut out, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 0, 0, 0, 0, 0, 0, 0, 247]);
    assert_eq!(out.len(), encoded_bytes_len(8));
}
