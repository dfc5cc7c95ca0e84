//! Decimal arithmetic against results MySQL prints.

use std::hash::BuildHasher;

use proptest::prelude::*;

use super::*;

fn d(text: &str) -> Decimal {
    text.parse().unwrap()
}

#[test]
fn prints_all_digits_of_the_scale() {
    for text in [
        "0",
        "0.00",
        "-0.5",
        "1.50",
        "123456789012345678901234567890.123456789",
        "99999999999999999999999999999999999.999999999999999999999999999999",
        "100000000000000000000000000000000000000000000000000000000000000000",
        "-10000000000000000000000000000000000000.000000000000000000000000000001",
    ] {
        assert_eq!(d(text).to_string(), text);
    }
    assert_eq!(d("-0").to_string(), "0");
    assert_eq!(d("1e3").to_string(), "1000");
    assert_eq!(d("1.5e-3").to_string(), "0.0015");
    assert_eq!(d(".5").to_string(), "0.5");
    assert_eq!(d("5.").to_string(), "5");
    assert_eq!(d("1e-40").to_string(), format!("0.{}", "0".repeat(30)));
}

#[test]
fn arithmetic_as_mysql_prints_it() {
    assert_eq!(d("1.1").add(&d("2.22")).unwrap().to_string(), "3.32");
    assert_eq!(d("1").sub(&d("0.999")).unwrap().to_string(), "0.001");
    assert_eq!(d("1.50").mul(&d("-2.0")).unwrap().to_string(), "-3.000");
    assert_eq!(d("1").div(&d("3"), 4).unwrap().unwrap().to_string(), "0.3333");
    assert_eq!(d("2").div(&d("3"), 4).unwrap().unwrap().to_string(), "0.6667");
    assert_eq!(d("-2.00").div(&d("3"), 4).unwrap().unwrap().to_string(), "-0.666667");
    assert_eq!(d("1").div(&d("0"), 4).unwrap(), None);
    assert_eq!(d("5.5").rem(&d("-2")).unwrap().unwrap().to_string(), "1.5");
    assert_eq!(d("-5.5").rem(&d("2")).unwrap().unwrap().to_string(), "-1.5");
    assert_eq!(d("7.9").int_div(&d("-2")).unwrap().unwrap().to_string(), "-3");
    let third = d("1").div_intermediate(&d("3"), 4).unwrap().unwrap();
    assert_eq!(third.to_string(), "0.333333333");
    assert_eq!(third.mul(&d("3")).unwrap().rescale(4).unwrap().to_string(), "1.0000");
}

#[test]
fn wide_arithmetic() {
    let nines = Decimal::max_value(65, 0);
    assert_eq!(nines.to_string(), "9".repeat(65));
    assert_eq!(nines.add(&Decimal::ONE).unwrap().to_string(), format!("1{}", "0".repeat(65)));
    assert_eq!(nines.sub(&nines).unwrap().to_string(), "0");
    assert!(nines.mul(&nines).is_err());
    let x = d("12345678901234567890123456789012345678.5");
    assert_eq!(x.mul(&d("2")).unwrap().to_string(), "24691357802469135780246913578024691357.0");
    let product = x.mul(&d("98765432109876543210987654321")).unwrap();
    let back = product.div(&d("98765432109876543210987654321"), 4).unwrap().unwrap();
    assert_eq!(back, x);
    assert_eq!(product.rem(&x).unwrap().unwrap(), Decimal::ZERO);
    assert_eq!(
        Decimal::max_value(65, 30).to_string(),
        format!("{}.{}", "9".repeat(35), "9".repeat(30))
    );
}

#[test]
fn rounding() {
    assert_eq!(d("2.5").round(0).unwrap().to_string(), "3");
    assert_eq!(d("-2.5").round(0).unwrap().to_string(), "-3");
    assert_eq!(d("1.005").round(2).unwrap().to_string(), "1.01");
    assert_eq!(d("155").round(-1).unwrap().to_string(), "160");
    assert_eq!(d("155").round(-5).unwrap().to_string(), "0");
    assert_eq!(d("1.999").truncate(1).unwrap().to_string(), "1.9");
    assert_eq!(d("-1.2").ceil().unwrap().to_string(), "-1");
    assert_eq!(d("-1.2").floor().unwrap().to_string(), "-2");
    assert_eq!(d("1.2").ceil().unwrap().to_string(), "2");
    assert_eq!(d("1.25").rescale(4).unwrap().to_string(), "1.2500");
    assert_eq!(d("-1.25").rescale(1).unwrap().to_string(), "-1.3");
    assert_eq!(d("1.5").to_i64().unwrap(), 2);
    assert!(d("9223372036854775808").to_i64().is_err());
    assert_eq!(d("18446744073709551615").to_u64().unwrap(), u64::MAX);
}

#[test]
fn prefixes() {
    let parsed = Decimal::parse_prefix(b" 12abc");
    assert_eq!((parsed.value.to_string().as_str(), parsed.status), ("12", PrefixStatus::Trailing));
    assert_eq!(Decimal::parse_prefix(b"abc").status, PrefixStatus::None);
    assert_eq!(Decimal::parse_prefix(b"1e").value, Decimal::ONE);
    assert_eq!(Decimal::parse_prefix(b"-1.5e1 ").value, d("-15"));
    assert_eq!(Decimal::parse_prefix(b"-1.5e1 ").status, PrefixStatus::Whole);
    let huge = Decimal::parse_prefix(b"-1e100");
    assert!(huge.overflow);
    assert_eq!(huge.value.to_string(), format!("-{}", "9".repeat(65)));
}

#[test]
fn doubles() {
    assert_eq!(Decimal::from_f64(0.1).unwrap().to_string(), "0.1");
    assert_eq!(Decimal::from_f64(1e20).unwrap().to_string(), "100000000000000000000");
    assert_eq!(Decimal::from_f64(-1.5e-7).unwrap().to_string(), "-0.00000015");
    assert!(Decimal::from_f64(1e90).is_err());
    assert_eq!(d("0.3").to_f64(), 0.3);
    assert_eq!(d("123456789012345678901234567890.5").to_f64(), 123456789012345678901234567890.5);
}

#[test]
fn stays_small() {
    assert_eq!(std::mem::size_of::<Decimal>(), 24);
}

prop_compose! {
    /// Any decimal that a column can hold.
    pub(crate) fn any_decimal()(digits in "[0-9]{1,65}", scale in 0usize..=30, negative: bool) -> Decimal {
        let scale = scale.min(digits.len());
        let (integer, fraction) = digits.split_at(digits.len() - scale);
        let sign = if negative { "-" } else { "" };
        format!("{sign}{integer}.{fraction}0").parse::<Decimal>().unwrap().round(scale as i32).unwrap()
    }
}

fn integer_digits(value: &Decimal) -> u32 {
    value.precision() - u32::from(value.scale())
}

proptest! {
    #[test]
    fn add_and_sub_are_inverse(a in any_decimal(), b in any_decimal()) {
        let sum = a.add(&b).unwrap();
        // Beyond 81 digits the last ones are rounded away, as in MySQL.
        let digits = integer_digits(&a).max(integer_digits(&b)) + u32::from(a.scale().max(b.scale()));
        prop_assume!(digits < DIGITS_MAX as u32);
        prop_assert_eq!(sum.sub(&b).unwrap(), a);
    }

    #[test]
    fn text_round_trip(a in any_decimal()) {
        let back: Decimal = a.to_string().parse().unwrap();
        prop_assert_eq!(back.scale(), a.scale());
        prop_assert_eq!(back, a);
    }

    #[test]
    fn division_leaves_a_smaller_remainder(a in any_decimal(), b in any_decimal()) {
        if let Some(remainder) = a.rem(&b).unwrap() {
            prop_assert!(remainder.abs() < b.abs());
            if let Ok(Some(quotient)) = a.int_div(&b)
                && let Ok(product) = quotient.mul(&b)
                // Else digits of the product were rounded away.
                && integer_digits(&quotient) + b.precision() < DIGITS_MAX as u32
            {
                prop_assert_eq!(product.add(&remainder).unwrap(), a);
            }
        }
    }

    #[test]
    fn equal_values_hash_alike(a in any_decimal(), zeros in 0u8..5) {
        let state = foldhash::fast::FixedState::default();
        if let Ok(b) = a.rescale((a.scale() + zeros).min(SCALE_MAX)) {
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(state.hash_one(&a), state.hash_one(&b));
        }
    }

    #[test]
    fn small_and_wide_agree(a: i64, b: i64, p in 0u8..10, q in 0u8..10) {
        let (x, y) = (Decimal::new(a.into(), p).unwrap(), Decimal::new(b.into(), q).unwrap());
        let order = (i128::from(a) * POW10[usize::from(q)]).cmp(&(i128::from(b) * POW10[usize::from(p)]));
        prop_assert_eq!(x.cmp(&y), order);
        let product = x.mul(&y).unwrap();
        prop_assert_eq!(product.mantissa(), Some(i128::from(a) * i128::from(b)));
    }
}
