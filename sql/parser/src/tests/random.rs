//! No text makes the parser panic, and what is printed parses back to the same tree.

use proptest::prelude::*;
use proptest::sample::select;

use crate::{SqlMode, digest::digest, parse_expr, parse_next, parse_one, parse_statements};

/// Pieces that statements are made of, and some that they are not.
const PIECES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "t",
    "a",
    "b",
    "`c`",
    "t.a",
    "1",
    "2.5",
    "1e3",
    "'x'",
    "\"y\"",
    "0x4D",
    "b'1'",
    "?",
    "@u",
    "@@v",
    "(",
    ")",
    ",",
    ".",
    "*",
    "+",
    "-",
    "/",
    "%",
    "=",
    "<=>",
    "<>",
    "||",
    "&&",
    "!",
    "~",
    "^",
    "|",
    "&",
    "<<",
    ":=",
    "->",
    "->>",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "IN",
    "LIKE",
    "BETWEEN",
    "IS",
    "NULL",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "EXISTS",
    "INTERVAL",
    "DAY",
    "BINARY",
    "COLLATE",
    "utf8mb4_bin",
    "INSERT",
    "INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE",
    "CREATE",
    "TABLE",
    "INDEX",
    "PRIMARY",
    "KEY",
    "INT",
    "VARCHAR",
    "DEFAULT",
    "ALTER",
    "ADD",
    "DROP",
    "COLUMN",
    "SHOW",
    "TABLES",
    "GRANT",
    "ON",
    "TO",
    "UNION",
    "ALL",
    "ORDER",
    "BY",
    "GROUP",
    "LIMIT",
    "JOIN",
    "LEFT",
    "USING",
    "AS",
    "WITH",
    "COUNT(",
    "CAST(",
    "CONVERT(",
    "TRIM(",
    "SUBSTRING(",
    "ROW(",
    "OVER",
    "PARTITION",
    "FOR",
    "SHARE",
    "ADMIN",
    "SPLIT",
    "USER",
    "IDENTIFIED",
    "EXPLAIN",
    ";",
    "/*!",
    "*/",
    "/*+ x */",
    "--",
    "#",
    "'",
    "`",
    "\\",
    "\u{e9}",
    "_utf8mb4'x'",
    "DATE'2020-01-01'",
    "COMMIT",
    "KILL",
    "USE",
    "MATCH",
    "AGAINST",
    "MOD",
    "DIV",
];

fn any_mode() -> impl Strategy<Value = SqlMode> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(ansi_quotes, pipes_as_concat, no_backslash_escapes, high_not_precedence)| SqlMode {
            ansi_quotes,
            pipes_as_concat,
            no_backslash_escapes,
            high_not_precedence,
            ignore_space: false,
        },
    )
}

/// Texts of expressions that always parse.
fn expression() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "a", "t.b", "1", "2.5", "'x'", "NULL", "TRUE", "?", "@u", "now()", "count(*)", "x'4D'",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 4, |inner| {
        let binary = select(vec![
            "+", "-", "*", "/", "DIV", "MOD", "%", "^", "|", "&", "<<", ">>", "=", "<=>", "<>",
            "<", ">=", "AND", "OR", "XOR", "LIKE", "REGEXP", "NOT LIKE", "&&", "||",
        ]);
        let unary = select(vec!["NOT ", "- ", "~", "!", "BINARY "]);
        let suffix = select(vec![
            " IS NULL",
            " IS NOT TRUE",
            " COLLATE utf8mb4_bin",
            " IN (1, 2)",
            " + INTERVAL 1 DAY",
            " BETWEEN 1 AND 2",
            " NOT IN (SELECT 1)",
            " = ANY (SELECT `a` FROM t)",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(l, op, r)| format!("{l} {op} {r}")),
            (unary, inner.clone()).prop_map(|(op, e)| format!("{op}{e}")),
            (inner.clone(), suffix).prop_map(|(e, suffix)| format!("{e}{suffix}")),
            inner.clone().prop_map(|e| format!("({e})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("if({a}, {b}, 0)")),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| format!("CASE WHEN {a} THEN {b} ELSE 1 END")),
            inner.prop_map(|e| format!("CAST({e} AS DECIMAL(10, 2))")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_tokens_never_panic(
        pieces in prop::collection::vec(select(PIECES), 0..40),
        glue in select(vec![" ", "", "\n"]),
        mode in any_mode(),
    ) {
        let sql = pieces.join(glue);
        let _ = parse_statements(&sql, &mode);
        let _ = parse_expr(&sql, &mode);
        let _ = digest(&sql, &mode);
    }

    #[test]
    fn random_text_never_panics(sql in any::<String>(), mode in any_mode()) {
        let _ = parse_statements(&sql, &mode);
        let _ = digest(&sql, &mode);
    }

    #[test]
    fn the_splitter_always_ends(sql in "[;'\" `/*!+a1-]{0,40}") {
        let mode = SqlMode::default();
        let mut start = 0;
        while let Ok(Some((_, next))) = parse_next(&sql, start, &mode) {
            prop_assert!(next > start);
            start = next;
        }
    }

    #[test]
    fn cacheable_digests_parse_with_their_literals(condition in expression()) {
        let mode = SqlMode::default();
        let sql = format!("SELECT a FROM t WHERE {condition} LIMIT 5");
        let digest = digest(&sql, &mode);
        if let (Ok(_), Some(digest)) = (parse_one(&sql, &mode), digest)
            && digest.cacheable
        {
            let count = parse_one(&digest.text, &mode).map(|parsed| parsed.parameter_count);
            prop_assert_eq!(count, Ok(digest.literals.len() as u32), "{}", digest.text);
        }
    }

    #[test]
    fn printed_expressions_parse_back(sql in expression()) {
        let mode = SqlMode::default();
        // Some combinations are no MySQL: `a LIKE b = c LIKE d` is, `1 BETWEEN 1 AND 2 ^ ..` too,
        // but what does not parse has nothing to print.
        if let Ok(expr) = parse_expr(&sql, &mode) {
            for printed in [expr.to_string(), expr.to_sql_grouped()] {
                let again = parse_expr(&printed, &mode);
                // Parameters are numbered by place, and printing moves none.
                prop_assert_eq!(again.as_ref(), Ok(&expr), "{} printed {}", sql, printed);
            }
        }
    }
}
