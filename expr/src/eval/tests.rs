//! Row-wise and vectorised evaluation give the same answers.

use cairn_types::{Chunk, Column, Datum, Decimal, FieldType, Time, TimeKind, time::TimeParts};
use proptest::prelude::*;

use super::*;
use crate::{Func, build_cast, build_function};

/// Columns of a random chunk: two integers, unsigned, two doubles, two decimals,
/// two texts, date, datetime.
fn types() -> Vec<FieldType> {
    vec![
        FieldType::bigint(),
        FieldType::int(),
        FieldType::bigint_unsigned(),
        FieldType::double(),
        FieldType::double(),
        FieldType::decimal(12, 2),
        FieldType::decimal(30, 4),
        FieldType::varchar(8),
        FieldType::varchar(8).with_collation(cairn_types::Collation::UTF8MB4_BIN),
        FieldType::date(),
        FieldType::datetime(3),
    ]
}

fn value(column: usize) -> BoxedStrategy<Datum> {
    let small = -5i64..5;
    let time = |kind: TimeKind| {
        (2020u16..2026, 1u8..13, 1u8..29, 0u8..24).prop_map(move |(year, month, day, hour)| {
            let hour = if kind == TimeKind::Date { 0 } else { hour };
            let parts = TimeParts { year, month, day, hour, ..TimeParts::default() };
            Datum::Time(Time::from_parts(parts, kind, 0).unwrap())
        })
    };
    let known = match column {
        0 => prop_oneof![8 => small, 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
            .prop_map(Datum::Int)
            .boxed(),
        1 => small.prop_map(Datum::Int).boxed(),
        2 => prop_oneof![8 => 0u64..9, 1 => Just(u64::MAX)].prop_map(Datum::UInt).boxed(),
        3 | 4 => prop_oneof![Just(0.0), Just(-1.5), Just(2.0), Just(1e200)]
            .prop_map(Datum::Double)
            .boxed(),
        5 => (-999i128..999).prop_map(|m| Datum::Decimal(Decimal::new(m, 2).unwrap())).boxed(),
        6 => {
            (-99_999i128..99_999).prop_map(|m| Datum::Decimal(Decimal::new(m, 4).unwrap())).boxed()
        }
        7 | 8 => prop_oneof!["[aAbB é]{0,3}", "-?[0-9]{1,2}"].prop_map(Datum::from).boxed(),
        9 => time(TimeKind::Date).boxed(),
        _ => time(TimeKind::DateTime).boxed(),
    };
    prop_oneof![1 => Just(Datum::Null), 5 => known].boxed()
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let row = (0..types().len()).map(value).collect::<Vec<_>>();
    (proptest::collection::vec((row, any::<bool>()), 1..20), any::<bool>()).prop_map(
        |(rows, select)| {
            let mut chunk = Chunk::new(&types(), rows.len());
            rows.iter().for_each(|(row, _)| chunk.push_row(row));
            if select {
                let kept = rows.iter().enumerate().filter(|(_, (_, keep))| *keep);
                chunk.sel = Some(kept.map(|(at, _)| at as u32).collect());
            }
            chunk
        },
    )
}

fn leaf() -> BoxedStrategy<Expr> {
    let column = (0..types().len()).prop_map(|at| Expr::column(at, types()[at].clone()));
    let constant = (0..types().len()).prop_flat_map(value).prop_map(Expr::constant);
    prop_oneof![3 => column, 1 => constant].boxed()
}

const BINARY: &[&str] = &[
    "+", "-", "*", "/", "div", "%", "=", "<=>", "<>", "<", "<=", ">", ">=", "and", "or", "xor",
    "like", "ifnull", "nullif", "concat", "&", "greatest", "datediff", "strcmp", "left",
];
const UNARY: &[&str] = &[
    "not",
    "isnull",
    "istrue",
    "isfalse",
    "unaryminus",
    "length",
    "char_length",
    "upper",
    "year",
    "month",
    "abs",
    "round",
    "day",
];
const TERNARY: &[&str] = &["if", "in", "coalesce", "between", "case", "interval"];

fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        let make = |names: &'static [&'static str], count: usize, inner: BoxedStrategy<Expr>| {
            (proptest::sample::select(names), proptest::collection::vec(inner, count)).prop_map(
                |(name, args)| {
                    let name = if name == "div" { "intdiv" } else { name };
                    let fallback = args[0].clone();
                    build_function(name, args, &mut EvalContext::default()).unwrap_or(fallback)
                },
            )
        };
        let cast = (inner.clone(), 0..types().len()).prop_map(|(arg, at)| {
            build_cast(arg, types()[at].clone(), &mut EvalContext::default()).unwrap()
        });
        prop_oneof![
            4 => make(BINARY, 2, inner.clone()),
            2 => make(UNARY, 1, inner.clone()),
            2 => make(TERNARY, 3, inner.clone()),
            1 => cast,
        ]
    })
}

fn identical(a: &Datum, b: &Datum) -> bool {
    a.kind_name() == b.kind_name() && a == b
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn vectorised_is_row_wise(chunk in chunk(), expr in expr()) {
        let mut ctx = EvalContext::default();
        let rows: Vec<usize> = chunk.selected().collect();
        let by_row: Result<Vec<Datum>> =
            rows.iter().map(|row| expr.eval_row(&ChunkRow { chunk: &chunk, row: *row }, &mut ctx)).collect();
        let column = expr.eval(&chunk, &mut ctx);
        match (by_row, column) {
            (Ok(values), Ok(column)) => {
                prop_assert_eq!(column.len(), rows.len());
                for (at, value) in values.iter().enumerate() {
                    let vector = column.get(at).to_owned();
                    prop_assert!(identical(&vector, value), "{}: row {}: {:?} <> {:?}", expr, at, vector, value);
                }
                let mut filtered = chunk.clone();
                eval_filter(std::slice::from_ref(&expr), &mut filtered, &mut ctx).unwrap();
                let kept: Vec<usize> = filtered.selected().collect();
                let expected: Vec<usize> = rows.iter().zip(&values)
                    .filter(|(_, value)| convert::truth(value, expr.ty(), &mut ctx).unwrap() == Some(true))
                    .map(|(row, _)| *row)
                    .collect();
                prop_assert_eq!(kept, expected);
            }
            (Err(_), Err(_)) => {}
            (a, b) => prop_assert!(false, "{}: by row {:?}, by chunk {:?}", expr, a, b),
        }
        // What is folded keeps its value.
        let folded = expr.clone().fold(&mut ctx);
        for row in rows {
            let row = ChunkRow { chunk: &chunk, row };
            if let (Ok(a), Ok(b)) = (expr.eval_row(&row, &mut ctx), folded.eval_row(&row, &mut ctx)) {
                prop_assert!(a == b, "{}: {:?}, folded {}: {:?}", expr, a, folded, b);
            }
        }
    }

    #[test]
    fn pushable_expressions_cross_the_wire(expr in expr()) {
        let mut ctx = EvalContext::default();
        let expr = expr.bind(&mut ctx);
        if expr.is_pushable() {
            let proto = crate::wire::expr_to_proto(&expr).unwrap();
            let back = crate::wire::expr_from_proto(&proto).unwrap();
            prop_assert_eq!(&back, &expr);
        }
    }
}

#[test]
fn laziness_keeps_errors_and_warnings_away() {
    let mut ctx = EvalContext::default();
    let b = || Expr::column(0, FieldType::bigint());
    let nonzero = build_function("<>", vec![b(), Expr::int(0)], &mut ctx).unwrap();
    let quotient = build_function("/", vec![Expr::int(10), b()], &mut ctx).unwrap();
    let large = build_function(">", vec![quotient, Expr::int(4)], &mut ctx).unwrap();
    let both = build_function("and", vec![nonzero, large], &mut ctx).unwrap();
    let mut column = Column::new(&FieldType::bigint(), 4);
    [0, 2, 5, 0].into_iter().for_each(|value| column.push_int(value));
    let mut chunk = Chunk::from_columns(vec![column]);
    eval_filter(&[both], &mut chunk, &mut ctx).unwrap();
    assert_eq!(chunk.sel, Some(vec![1]));
    assert!(ctx.warnings.is_empty());
}

#[test]
fn overflow_names_the_expression() {
    let mut ctx = EvalContext::default();
    let a = Expr::column(0, FieldType::bigint());
    let sum = build_function("+", vec![a, Expr::int(1)], &mut ctx).unwrap();
    let mut column = Column::new(&FieldType::bigint(), 1);
    column.push_int(i64::MAX);
    let error = sum.eval(&Chunk::from_columns(vec![column]), &mut ctx).unwrap_err();
    assert_eq!(error.to_string(), "BIGINT value is out of range in '(Column#0 + 1)'");
    assert_eq!(error.mysql_code(), 1690);
}

#[test]
fn slots_bind_and_session_functions_wait_for_their_statement() {
    let mut ctx = EvalContext::default();
    let slot = Expr::param(0, FieldType::bigint());
    let column = Expr::column(0, FieldType::bigint());
    let equal = build_function("=", vec![column, slot], &mut ctx).unwrap();
    assert!(crate::wire::expr_to_proto(&equal).is_err());
    ctx.params = vec![Datum::Int(5)].into();
    let bound = equal.bind(&mut ctx);
    assert_eq!(bound.to_string(), "eq(Column#0, 5)");
    let now = build_function("now", vec![], &mut ctx).unwrap();
    assert!(matches!(&now, Expr::Function { func: Func::Now, .. }));
    assert!(now.bind(&mut ctx).as_constant().is_some());
}

#[test]
fn constants_take_the_columns_type() {
    let mut ctx = EvalContext::default();
    let mut show = |name: &str, ty: FieldType, constant: Expr| {
        build_function(name, vec![Expr::column(0, ty), constant], &mut ctx)
            .unwrap()
            .fmt_with(&|_| "c".into())
    };
    let decimal = |text: &str| Expr::constant(Datum::Decimal(text.parse().unwrap()));
    assert_eq!(show(">", FieldType::int(), Expr::string("10")), "gt(c, 10)");
    assert_eq!(show(">", FieldType::int(), decimal("10.5")), "gt(c, 10)");
    assert_eq!(show("<", FieldType::int(), decimal("10.5")), "lt(c, 11)");
    assert_eq!(show("=", FieldType::int(), decimal("10.5")), "ne(c, c)");
    assert_eq!(show("=", FieldType::varchar(10), Expr::int(5)), "eq(cast(c, double BINARY), 5)");
    assert_eq!(show("=", FieldType::varchar(10), Expr::string("x")), "eq(c, \"x\")");
    assert_eq!(show(">", FieldType::date(), Expr::string("2024-01-02")), "gt(c, 2024-01-02)");
    assert_eq!(show("=", FieldType::decimal(10, 2), Expr::string("1.50")), "eq(c, 1.50)");
    assert_eq!(show("=", FieldType::enumeration(["a", "b"]), Expr::string("b")), "eq(c, 2)");
}

/// `c1 > 10 AND c2 = 'x'` and others, in ns per row; run with `--ignored`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    let mut ctx = EvalContext::default();
    let types = [FieldType::int(), FieldType::varchar(32), FieldType::decimal(12, 2)];
    let mut chunk = Chunk::new(&types, 1024);
    for at in 0..1024i64 {
        let text = if at % 3 == 0 { "gopherchina" } else { "someone" };
        chunk.push_row(&[
            Datum::Int(at % 20),
            text.into(),
            Datum::Decimal(Decimal::new(at.into(), 2).unwrap()),
        ]);
    }
    let column = |at: usize| Expr::column(at, types[at].clone());
    let mut build = |name: &str, args: Vec<Expr>| build_function(name, args, &mut ctx).unwrap();
    let greater = build(">", vec![column(0), Expr::int(10)]);
    let equal = build("=", vec![column(1), Expr::string("gopherchina")]);
    let like = build("like", vec![column(1), Expr::string("go%")]);
    let sum = build("+", vec![column(0), Expr::int(1)]);
    let one = Expr::constant(Datum::Decimal("1.00".parse().unwrap()));
    let less = build("-", vec![one, column(2)]);
    let product = build("*", vec![column(2), less]);
    let cases: [(&str, Vec<Expr>); 5] = [
        ("c1 > 10 AND c2 = 'x'", vec![greater.clone(), equal.clone()]),
        ("c1 > 10", vec![greater]),
        ("c2 = 'x'", vec![equal]),
        ("c2 LIKE 'go%'", vec![like]),
        ("c1 + 1 > 10", vec![build(">", vec![sum, Expr::int(10)])]),
    ];
    let rounds = 2000;
    let clock = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    for (name, conditions) in cases {
        let start = clock();
        for _ in 0..rounds {
            let mut input = std::mem::take(&mut chunk);
            eval_filter(&conditions, &mut input, &mut ctx).unwrap();
            input.sel = None;
            chunk = input;
        }
        eprintln!("{name}: {:.2} ns/row", (clock() - start) as f64 / (rounds * 1024) as f64);
    }
    let start = clock();
    for _ in 0..rounds {
        std::hint::black_box(product.eval(&chunk, &mut ctx).unwrap());
    }
    eprintln!("d * (1 - d): {:.2} ns/row", (clock() - start) as f64 / (rounds * 1024) as f64);
}
