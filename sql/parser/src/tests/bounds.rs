//! Hostile texts get an error, fast, on the stack of an ordinary thread.

use std::fmt::Write as _;

use crate::ast::{Expr, QueryBody, SelectItem, Statement};
use crate::{MAX_TREE_HEIGHT, ParseError, SqlMode, parse_expr, parse_one};

fn mode() -> SqlMode {
    SqlMode::default()
}

/// Texts that nest by a repeated head and tail.
fn nested(head: &str, middle: &str, tail: &str, times: usize) -> String {
    format!("{}{middle}{}", head.repeat(times), tail.repeat(times))
}

#[test]
fn bombs_are_refused() {
    const SHAPES: [(&str, &str, &str); 16] = [
        ("(", "1", ")"),
        ("((", "", ""),
        ("NOT ", "1", ""),
        ("- ", "1", ""),
        ("~", "1", ""),
        ("!", "1", ""),
        ("BINARY ", "1", ""),
        ("CASE WHEN ", "1", " THEN 1 END"),
        ("CASE ", "1", " WHEN 1 THEN 1 END"),
        ("IF(1, ", "1", ", 0)"),
        ("(SELECT ", "1", ")"),
        ("EXISTS (SELECT 1 FROM (SELECT ", "1", ") a)"),
        ("@a := ", "1", ""),
        ("INTERVAL ", "1", " DAY"),
        ("1 BETWEEN 1 AND ", "1", ""),
        ("a IN (", "1", ")"),
    ];
    for (head, middle, tail) in SHAPES {
        for times in [300, 20_000] {
            let sql = nested(head, middle, tail, times);
            let error = parse_expr(&sql, &mode()).expect_err(head);
            assert!(matches!(error, ParseError::TooDeep { .. }), "{head}: {error:?}");
        }
    }
}

#[test]
fn nested_statements_are_refused() {
    for (head, middle, tail) in [
        ("SELECT * FROM (", "SELECT 1", ") t"),
        ("SELECT * FROM ((", "t", ") JOIN t)"),
        ("WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("(", "SELECT 1", ") LIMIT 1"),
        ("(", "SELECT 1", ") UNION SELECT 1"),
        ("CREATE TABLE t (a INT CHECK (", "1", "))"),
    ] {
        let sql = nested(head, middle, tail, 2_000);
        assert!(parse_one(&sql, &mode()).is_err(), "{head}");
    }
    let explains = format!("{} SELECT 1", "EXPLAIN ".repeat(100_000));
    assert!(parse_one(&explains, &mode()).is_err());
}

#[test]
fn sixty_megabytes_of_parentheses_are_an_error() {
    let sql = "(".repeat(60 * 1024 * 1024);
    let error = parse_one(&sql, &mode()).expect_err("too deep");
    assert!(matches!(error, ParseError::TooDeep { .. }));
}

#[test]
fn nesting_that_people_write_is_accepted() {
    for (head, tail) in [("(", ")"), ("ABS(", ")"), ("NOT ", "")] {
        let sql = nested(head, "1", tail, 100);
        parse_expr(&sql, &mode()).expect(head);
    }
    parse_expr(&nested("(SELECT ", "1", ")", 50), &mode()).expect("subqueries");
}

#[test]
fn chains_of_conditions_are_flat() {
    for (word, want) in [(" OR ", "or"), (" AND ", "and")] {
        let sql = (0..10_000).map(|n| format!("a = {n}")).collect::<Vec<_>>().join(word);
        let expr = parse_expr(&sql, &mode()).expect(want);
        let terms = match expr {
            Expr::And(terms) | Expr::Or(terms) => terms.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(terms, 10_000);
    }
}

#[test]
fn chains_of_arithmetic_are_bounded() {
    let fits = vec!["1"; MAX_TREE_HEIGHT as usize - 1].join(" + ");
    parse_expr(&fits, &mode()).expect("within the bound");
    for op in ["+", "*", "=", "XOR", "DIV", "LIKE", "COLLATE a COLLATE", "->"] {
        let one = if op == "->" { "'1'" } else { "1" };
        let sql = vec![one; 10_000].join(&format!(" {op} "));
        assert!(parse_expr(&sql, &mode()).is_err(), "{op}");
    }
    // Nesting and chains add up.
    let chain = vec!["1"; 200].join(" + ");
    let mut sql = chain.clone();
    for _ in 0..4 {
        sql = format!("({sql}) + {chain}");
    }
    assert!(matches!(parse_expr(&sql, &mode()), Err(ParseError::TooDeep { .. })));
}

#[test]
fn long_lists_are_fine() {
    let mut sql = String::from("INSERT INTO t VALUES (0)");
    for n in 1..20_000 {
        let _ = write!(sql, ", ({n}, 'x')");
    }
    parse_one(&sql, &mode()).expect("many rows");
    let list = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    parse_one(&format!("SELECT * FROM t WHERE a IN ({list})"), &mode()).expect("a long list");
    let items = parse_one(&format!("SELECT {list}"), &mode()).expect("many items");
    let Statement::Query(query) = items.statement else { panic!("no query") };
    let QueryBody::Select(select) = query.body else { panic!("no select") };
    assert_eq!(select.items.len(), 20_000);
    assert!(matches!(&select.items[7], SelectItem::Expr { text, .. } if text == "7"));
}

#[test]
fn long_joins_and_unions_are_bounded() {
    let joins = vec!["t"; 5_000].join(" JOIN ");
    assert!(parse_one(&format!("SELECT * FROM {joins}"), &mode()).is_err());
    let commas = vec!["t"; 5_000].join(", ");
    assert!(parse_one(&format!("SELECT * FROM {commas}"), &mode()).is_err());
    let unions = vec!["SELECT 1"; 5_000].join(" UNION ALL ");
    assert!(parse_one(&unions, &mode()).is_err());
    let fine = vec!["SELECT 1"; 400].join(" UNION ALL ");
    parse_one(&fine, &mode()).expect("within the bound");
}

/// The deepest trees there can be are read, printed, compared and dropped on the stack of a
/// thread that is no deeper than the server's.
#[test]
fn the_deepest_trees_are_harmless() {
    let levels = crate::MAX_QUERY_LEVELS - 1;
    let mut shapes: Vec<String> = [
        ("SELECT * FROM (", "SELECT 1", ") t"),
        ("SELECT * FROM (", "t", ")"),
        ("WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("(", "SELECT 1", " LIMIT 1) UNION SELECT 1"),
        ("SELECT (", "SELECT 1", ")"),
        ("SELECT * FROM t WHERE a IN (", "SELECT 1", ")"),
    ]
    .into_iter()
    .map(|(head, middle, tail)| nested(head, middle, tail, levels))
    .collect();
    for op in [" + ", " = ", " LIKE ", " XOR "] {
        shapes.push(format!("SELECT {}", vec!["a"; MAX_TREE_HEIGHT as usize - 1].join(op)));
    }
    let run = move || {
        let mut parsed_any = 0;
        for sql in &shapes {
            let Ok(parsed) = parse_one(sql, &mode()) else { continue };
            parsed_any += 1;
            let copy = parsed.clone();
            assert_eq!(copy, parsed);
            assert!(format!("{parsed:?}").len() > 1_000);
            if let Statement::Query(query) = &parsed.statement {
                assert!(!query.to_string().is_empty());
            }
        }
        parsed_any
    };
    const SERVER_STACK_BYTES: usize = 2 * 1024 * 1024;
    let thread = std::thread::Builder::new().stack_size(SERVER_STACK_BYTES);
    let parsed_any = thread.spawn(run).expect("a thread").join().expect("no overflow");
    assert!(parsed_any >= 8, "only {parsed_any} shapes parsed");
}
