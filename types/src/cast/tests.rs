//! Conversions as MySQL does them, strict and not.

use super::*;
use crate::Collation;

fn text(value: &str) -> Datum {
    Datum::from(value)
}

fn show(value: &Datum, field_type: &FieldType) -> String {
    if value.is_null() {
        return "NULL".to_owned();
    }
    String::from_utf8(text_of(value, field_type)).unwrap()
}

/// Result as text, and the numbers of errors or warnings.
fn run(value: Datum, from: FieldType, to: &FieldType, ctx: &mut CastContext) -> (String, Vec<u16>) {
    match cast_datum(&value, &from, to, ctx) {
        Ok(value) => {
            let codes = ctx.take_warnings("c", 1).iter().map(|warning| warning.code).collect();
            (show(&value, to), codes)
        }
        Err(error) => (format!("error {}", error.for_column("c", 1).code), Vec::new()),
    }
}

#[track_caller]
fn check(value: &str, to: FieldType, strict: &str, lenient: (&str, &[u16]), cast: (&str, &[u16])) {
    let from = FieldType::string;
    let got = run(text(value), from(), &to, &mut CastContext::assign_strict());
    assert_eq!(got.0, strict, "strict");
    let got = run(text(value), from(), &to, &mut CastContext::assign_lenient());
    assert_eq!((got.0.as_str(), got.1.as_slice()), lenient, "lenient");
    let got = run(text(value), from(), &to, &mut CastContext::expression());
    assert_eq!((got.0.as_str(), got.1.as_slice()), cast, "cast");
}

#[test]
fn text_to_integers() {
    let int = FieldType::int;
    check("12", int(), "12", ("12", &[]), ("12", &[]));
    check(" 12 ", int(), "12", ("12", &[]), ("12", &[]));
    check("12abc", int(), "error 1265", ("12", &[1265]), ("12", &[1292]));
    check("abc", int(), "error 1366", ("0", &[1366]), ("0", &[1292]));
    check("1.5", int(), "2", ("2", &[]), ("1", &[1292]));
    check("1e2", int(), "100", ("100", &[]), ("1", &[1292]));
    check("99999999999", int(), "error 1264", ("2147483647", &[1264]), ("2147483647", &[1292]));
    check(
        "-1",
        FieldType::bigint_unsigned(),
        "error 1264",
        ("0", &[1264]),
        ("18446744073709551615", &[]),
    );
}

#[test]
fn text_to_other_numbers() {
    let double = FieldType::double;
    check("1.5e3x", double(), "error 1265", ("1500", &[1265]), ("1500", &[1292]));
    check("0.1", double(), "0.1", ("0.1", &[]), ("0.1", &[]));
    let decimal = FieldType::decimal(5, 2);
    check("1.005", decimal.clone(), "1.01", ("1.01", &[]), ("1.01", &[]));
    check("12345", decimal.clone(), "error 1264", ("999.99", &[1264]), ("999.99", &[1292]));
    check("x", decimal, "error 1366", ("0.00", &[1366]), ("0.00", &[1292]));
}

#[test]
fn numbers_between_types() {
    let mut ctx = CastContext::expression();
    let unsigned = FieldType::bigint_unsigned();
    let got = run(Datum::Int(-1), FieldType::bigint(), &unsigned, &mut ctx);
    assert_eq!(got, ("18446744073709551615".to_owned(), vec![]));
    let got = run(Datum::UInt(u64::MAX), unsigned, &FieldType::bigint(), &mut ctx);
    assert_eq!(got, ("-1".to_owned(), vec![]));
    let got = run(Datum::Double(2.5), FieldType::double(), &FieldType::bigint(), &mut ctx);
    assert_eq!(got.0, "2");
    let half: crate::Decimal = "2.5".parse().unwrap();
    let got = run(Datum::from(half), FieldType::decimal(2, 1), &FieldType::bigint(), &mut ctx);
    assert_eq!(got.0, "3");
    let mut ctx = CastContext::assign_strict();
    let got = run(Datum::Int(300), FieldType::bigint(), &FieldType::tinyint(), &mut ctx);
    assert_eq!(got.0, "error 1264");
    let got = run(Datum::Double(1e300), FieldType::double(), &FieldType::float(), &mut ctx);
    assert_eq!(got.0, "error 1264");
}

#[test]
fn lengths() {
    let varchar = FieldType::varchar(3);
    check("abcd", varchar.clone(), "error 1406", ("abc", &[1265]), ("abc", &[1292]));
    check("äöü", varchar.clone(), "äöü", ("äöü", &[]), ("äöü", &[]));
    check("äöüß", varchar.clone(), "error 1406", ("äöü", &[1265]), ("äöü", &[1292]));
    check("abc  ", varchar, "abc", ("abc", &[]), ("abc", &[1292]));
    check("a  ", FieldType::char(3), "a", ("a", &[]), ("a  ", &[]));
    check("a", FieldType::binary(3), "a\0\0", ("a\0\0", &[]), ("a\0\0", &[]));
    let ascii = FieldType::varchar(9).with_collation(Collation::ASCII_BIN);
    check("aé", ascii, "error 1366", ("a?", &[1366]), ("a?", &[1300]));
    let invalid = Datum::Bytes(b"ab\xff".to_vec());
    let mut ctx = CastContext::assign_strict();
    let got = run(invalid, FieldType::varbinary(9), &FieldType::text(), &mut ctx);
    assert_eq!(got.0, "error 1366");
}

#[test]
fn dates() {
    let datetime = FieldType::datetime(0);
    check(
        "2024-1-5 1:2:3.5",
        datetime.clone(),
        "2024-01-05 01:02:04",
        ("2024-01-05 01:02:04", &[]),
        ("2024-01-05 01:02:04", &[]),
    );
    check(
        "2024-02-30",
        datetime.clone(),
        "error 1292",
        ("0000-00-00 00:00:00", &[1292]),
        ("NULL", &[1292]),
    );
    check(
        "2024-01-05x",
        FieldType::date(),
        "error 1292",
        ("2024-01-05", &[1292]),
        ("2024-01-05", &[1292]),
    );
    check(
        "0000-00-00",
        datetime,
        "error 1292",
        ("0000-00-00 00:00:00", &[]),
        ("0000-00-00 00:00:00", &[]),
    );
    check(
        "1969-12-31",
        FieldType::timestamp(0),
        "error 1292",
        ("0000-00-00 00:00:00", &[1292]),
        ("1969-12-31 00:00:00", &[]),
    );
    check("12:34:56.7", FieldType::time(0), "12:34:57", ("12:34:57", &[]), ("12:34:57", &[]));
    check(
        "900:00:00",
        FieldType::time(0),
        "error 1292",
        ("838:59:59", &[1292]),
        ("838:59:59", &[1292]),
    );
    check("69", FieldType::year(), "2069", ("2069", &[]), ("2069", &[]));
    check("0", FieldType::year(), "2000", ("2000", &[]), ("2000", &[]));
    check("1800", FieldType::year(), "error 1292", ("0000", &[1292]), ("0000", &[1292]));
}

#[test]
fn enums_sets_bits() {
    let colour = FieldType::enumeration(["red", "green", "2"]);
    check("GREEN", colour.clone(), "green", ("green", &[]), ("green", &[]));
    check("1", colour.clone(), "red", ("red", &[]), ("red", &[]));
    check("2", colour.clone(), "2", ("2", &[]), ("2", &[]));
    check("blue", colour, "error 1265", ("", &[1265]), ("", &[1265]));
    let set = FieldType::set(["a", "b", "c"]);
    check("c,A,c", set.clone(), "a,c", ("a,c", &[]), ("a,c", &[]));
    check("3", set.clone(), "a,b", ("a,b", &[]), ("a,b", &[]));
    check("a,x", set.clone(), "error 1265", ("a", &[1265]), ("a", &[1265]));
    check("", set, "", ("", &[]), ("", &[]));
    check("AB", FieldType::bit(16), "AB", ("AB", &[]), ("AB", &[]));
    check("AB", FieldType::bit(7), "error 1406", ("\u{7f}", &[1406]), ("\u{7f}", &[1406]));
}

#[test]
fn json() {
    let json = FieldType::json();
    check(
        "{\"b\": 1, \"a\": [1, 2]}",
        json.clone(),
        "{\"a\": [1, 2], \"b\": 1}",
        ("{\"a\": [1, 2], \"b\": 1}", &[]),
        ("{\"a\": [1, 2], \"b\": 1}", &[]),
    );
    check("{", json.clone(), "error 3140", ("error 3140", &[]), ("error 3140", &[]));
    let value =
        cast_datum(&text("\"7x\""), &FieldType::string(), &json, &mut CastContext::expression());
    let got = run(value.unwrap(), json, &FieldType::bigint(), &mut CastContext::expression());
    assert_eq!(got, ("7".to_owned(), vec![1292]));
}
