//! Aggregates in one piece and split, over groups with and without NULLs.

use cairn_types::{Chunk, Column, Datum, FieldType};

use super::*;

fn column(ty: &FieldType, values: &[Datum]) -> Column {
    let mut column = Column::new(ty, values.len());
    values.iter().for_each(|value| column.push(value.as_ref()));
    column
}

/// Results per group of rows `(group, value)`, in one piece; and the same through
/// partial states of two halves, if the aggregate can be split.
fn run(desc: &AggDesc, ty: &FieldType, rows: &[(u32, Datum)], groups: usize) -> Vec<String> {
    let mut ctx = EvalContext::default();
    let eval = |desc: &AggDesc, rows: &[(u32, Datum)], ctx: &mut EvalContext| {
        let values: Vec<Datum> = rows.iter().map(|(_, value)| value.clone()).collect();
        let chunk = Chunk::from_columns(vec![column(ty, &values)]);
        let args: Vec<Column> =
            desc.args.iter().map(|arg| arg.eval(&chunk, ctx).unwrap()).collect();
        let groups: Vec<u32> = rows.iter().map(|(group, _)| *group).collect();
        let mut state = desc.new_state(ctx);
        state.ensure_groups(4);
        state.update(&groups, &args, ctx).unwrap();
        state
    };
    let text = |state: &mut dyn GroupedAgg, ctx: &mut EvalContext| -> Vec<String> {
        let mut out = Column::new(&desc.ty, groups);
        (0..groups).for_each(|group| state.write_final(group, &mut out, ctx).unwrap());
        (0..groups)
            .map(|group| {
                let mut text = Vec::new();
                cairn_types::write_text(&mut text, out.get(group), &desc.ty);
                if out.is_null(group) { "NULL".into() } else { String::from_utf8(text).unwrap() }
            })
            .collect()
    };
    let whole = text(eval(desc, rows, &mut ctx).as_mut(), &mut ctx);
    if desc.is_splittable() {
        let mut total = desc.new_state(&ctx);
        total.ensure_groups(4);
        for half in [&rows[..rows.len() / 2], &rows[rows.len() / 2..]] {
            let mut state = eval(desc, half, &mut ctx);
            let mut columns: Vec<Column> =
                partial_types(desc).iter().map(|ty| Column::new(ty, 4)).collect();
            let present: Vec<u32> =
                (0..4).filter(|group| half.iter().any(|(g, _)| g == group)).collect();
            for group in &present {
                state.write_partial(*group as usize, &mut columns).unwrap();
            }
            total.merge_partial(&present, &columns, &mut ctx).unwrap();
        }
        assert_eq!(text(total.as_mut(), &mut ctx), whole, "{:?} split", desc.func);
    }
    whole
}

fn check(name: &str, distinct: bool, ty: FieldType, values: &[Datum], expected: [&str; 3]) {
    let mut ctx = EvalContext::default();
    let arg = Expr::column(0, ty.clone());
    let desc = build_aggregate(name, vec![arg], distinct, &mut ctx).unwrap();
    // Values alternate between groups 0 and 1; group 2 stays empty.
    let rows: Vec<(u32, Datum)> =
        values.iter().enumerate().map(|(at, value)| (at as u32 % 2, value.clone())).collect();
    assert_eq!(run(&desc, &ty, &rows, 3), expected, "{name} {ty}");
}

fn ints(values: &[Option<i64>]) -> Vec<Datum> {
    values.iter().map(|value| (*value).into()).collect()
}

#[test]
fn integers() {
    let values = ints(&[Some(1), Some(10), None, Some(20), Some(3), Some(20), Some(1), None]);
    let int = FieldType::int;
    check("count", false, int(), &values, ["3", "3", "0"]);
    check("count", true, int(), &values, ["2", "2", "0"]);
    check("sum", false, int(), &values, ["5", "50", "NULL"]);
    check("sum", true, int(), &values, ["4", "30", "NULL"]);
    check("avg", false, int(), &values, ["1.6667", "16.6667", "NULL"]);
    check("min", false, int(), &values, ["1", "10", "NULL"]);
    check("max", true, int(), &values, ["3", "20", "NULL"]);
    check("bit_or", false, int(), &values, ["3", "30", "0"]);
    check("bit_and", false, int(), &values, ["1", "0", "18446744073709551615"]);
    check("bit_xor", false, int(), &values, ["3", "10", "0"]);
    check(
        "var_pop",
        false,
        int(),
        &ints(&[Some(1), Some(2), Some(3), Some(2)]),
        ["1", "0", "NULL"],
    );
    check(
        "stddev_samp",
        false,
        int(),
        &ints(&[Some(1), Some(2), Some(3)]),
        ["1.4142135623730951", "NULL", "NULL"],
    );
    check("group_concat", false, int(), &values, ["1,3,1", "10,20,20", "NULL"]);
    check("group_concat", true, int(), &values, ["1,3", "10,20", "NULL"]);
    check(
        "json_arrayagg",
        false,
        int(),
        &values,
        ["[1, null, 3, 1]", "[10, 20, 20, null]", "NULL"],
    );
    check("any_value", false, int(), &values, ["1", "10", "NULL"]);
}

#[test]
fn decimals_text_and_doubles() {
    let decimals: Vec<Datum> =
        ["1.10", "2.25", "3.30"].iter().map(|text| Datum::Decimal(text.parse().unwrap())).collect();
    check("sum", false, FieldType::decimal(10, 2), &decimals, ["4.40", "2.25", "NULL"]);
    check("avg", false, FieldType::decimal(10, 2), &decimals, ["2.200000", "2.250000", "NULL"]);
    check("sum", false, FieldType::decimal(60, 2), &decimals, ["4.40", "2.25", "NULL"]);
    check("max", false, FieldType::decimal(10, 2), &decimals, ["3.30", "2.25", "NULL"]);
    // Three of these overflow 128 bits, and their sum is exact all the same.
    let large = "900000000000000000000000000000000000.25";
    let wide = [large, "-1.50", large, "-2.00", large].map(|text| text.parse().unwrap());
    let wide = wide.map(Datum::Decimal);
    let expected = ["2700000000000000000000000000000000000.75", "-3.50", "NULL"];
    check("sum", false, FieldType::decimal(38, 2), &wide, expected);
    let texts: Vec<Datum> = ["b", "x", "A", "X"].into_iter().map(Datum::from).collect();
    check("min", false, FieldType::varchar(10), &texts, ["A", "x", "NULL"]);
    check("count", true, FieldType::varchar(10), &texts, ["2", "1", "0"]);
    let doubles: Vec<Datum> = [0.5, 1.5, 2.0].into_iter().map(Datum::from).collect();
    check("sum", false, FieldType::double(), &doubles, ["2.5", "1.5", "NULL"]);
    check("avg", false, FieldType::double(), &doubles, ["1.25", "1.5", "NULL"]);
    let numbers: Vec<Datum> = ["1", "2", "3"].into_iter().map(Datum::from).collect();
    check("sum", false, FieldType::varchar(10), &numbers, ["4", "2", "NULL"]);
}

#[test]
fn group_concat_orders_separates_and_cuts() {
    let mut ctx = EvalContext::default();
    let ty = FieldType::varchar(10);
    let arg = Expr::column(0, ty.clone());
    let desc = AggDesc::group_concat(
        vec![arg.clone()],
        true,
        vec![(arg, true)],
        Some("; ".into()),
        &mut ctx,
    )
    .unwrap();
    let rows: Vec<(u32, Datum)> =
        ["b", "a", "c", "a"].into_iter().map(|text| (0, text.into())).collect();
    assert_eq!(run(&desc, &ty, &rows, 1), ["c; b; a"]);
    let mut state = desc.new_state(&ctx);
    state.ensure_groups(1);
    let column = column(&ty, &[Datum::from("abc"), Datum::from("dé")]);
    state.update(&[0, 0], &[column.clone(), column], &mut ctx).unwrap();
    ctx.group_concat_max_len = 2;
    let mut out = Column::new(&desc.ty, 1);
    state.write_final(0, &mut out, &mut ctx).unwrap();
    assert_eq!(out.bytes_at(0), b"d");
    assert_eq!(ctx.warnings.list()[0].code, 1260);
}

#[test]
fn arguments_are_checked_and_types_inferred() {
    let mut ctx = EvalContext::default();
    let int = || Expr::column(0, FieldType::int());
    assert_eq!(build_aggregate("sum", vec![], false, &mut ctx).unwrap_err().mysql_code(), 1582);
    assert_eq!(build_aggregate("nope", vec![], false, &mut ctx).unwrap_err().mysql_code(), 1305);
    let count = build_aggregate("count", vec![Expr::int(1)], false, &mut ctx).unwrap();
    assert!(count.args.is_empty());
    assert_eq!(count.fmt_with(&|_| "a".into()), "count(1)");
    let sum = build_aggregate("sum", vec![int()], false, &mut ctx).unwrap();
    assert_eq!((sum.ty.precision(), sum.ty.scale()), (32, 0));
    let avg = build_aggregate("avg", vec![int()], false, &mut ctx).unwrap();
    assert_eq!((avg.ty.precision(), avg.ty.scale()), (14, 4));
    assert_eq!(partial_types(&avg).len(), 2);
    assert!(!build_aggregate("sum", vec![int()], true, &mut ctx).unwrap().is_splittable());
}
