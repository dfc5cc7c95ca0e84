//! Golden tests: expressions with their type, value and warnings.
//!
//! Each line of `testscripts/*.golden` is `expression => type value [warnings]`.
//! `CAIRN_REWRITE_GOLDEN=1 cargo test -p cairn-expr` writes the answers; review
//! them in the diff. Every line is evaluated three times: folded, by row and over a
//! chunk whose columns hold the literals; all must agree.

use std::fmt::Write;

use cairn_types::{Chunk, Column, Datum, FieldType, Time, TimeKind, TimeZone, write_text};

use crate::{
    EvalContext, Expr, Func, NoRow, SessionInfo, StatementCounters, build_cast, build_function,
};

struct Parser<'a> {
    text: &'a str,
    ctx: &'a mut EvalContext,
    /// Literals become columns, so that nothing folds.
    columns: Option<Vec<(Datum, FieldType)>>,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.text = self.text.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.text.strip_prefix(token) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self, of: fn(char) -> bool) -> String {
        let end = self.text.find(|c| !of(c)).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        word.to_owned()
    }

    fn quoted(&mut self) -> String {
        let mut out = String::new();
        let mut chars = self.text.char_indices();
        let mut end = self.text.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' => {
                    end = at + 1;
                    break;
                }
                '\\' => out.extend(chars.next().map(|(_, c)| if c == 'n' { '\n' } else { c })),
                c => out.push(c),
            }
        }
        self.text = &self.text[end..];
        out
    }

    fn literal(&mut self, value: Datum, ty: FieldType) -> Expr {
        match &mut self.columns {
            Some(columns) => {
                columns.push((value, ty.clone()));
                Expr::column(columns.len() - 1, ty)
            }
            None => Expr::constant_of(value, ty),
        }
    }

    fn expr(&mut self) -> Result<Expr, crate::ExprError> {
        self.skip();
        if self.eat("'") {
            let text = self.quoted();
            let constant = Expr::string(text);
            let Expr::Constant { value, ty } = constant else { unreachable!() };
            return Ok(self.literal(value, ty));
        }
        if self.text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
            let number = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            let value = if number.contains('e') {
                Datum::Double(number.parse().unwrap())
            } else if let Ok(value) = number.parse::<i64>() {
                Datum::Int(value)
            } else if let Ok(value) = number.parse::<u64>() {
                Datum::UInt(value)
            } else {
                Datum::Decimal(number.parse().unwrap())
            };
            let ty = crate::infer::type_of_literal(&value);
            return Ok(self.literal(value, ty));
        }
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@');
        match name.as_str() {
            "NULL" => return Ok(Expr::null()),
            "date" if self.text.starts_with('\'') => {
                self.eat("'");
                let time =
                    Time::parse(self.quoted().as_bytes(), TimeKind::Date, 0, Default::default())?;
                return Ok(self.literal(Datum::Time(time.time), FieldType::date().with_not_null()));
            }
            "timestamp" if self.text.starts_with('\'') => {
                self.eat("'");
                let text = self.quoted();
                let fsp = text.split_once('.').map_or(0, |(_, tail)| tail.len() as u8);
                let time =
                    Time::parse(text.as_bytes(), TimeKind::DateTime, fsp, Default::default())?;
                return Ok(self.literal(Datum::Time(time.time), FieldType::datetime(fsp)));
            }
            "time" if self.text.starts_with('\'') => {
                self.eat("'");
                let text = self.quoted();
                let fsp = text.split_once('.').map_or(0, |(_, tail)| tail.len() as u8);
                let span = cairn_types::Duration::parse(text.as_bytes(), fsp)?;
                return Ok(self.literal(Datum::Duration(span.duration), FieldType::time(fsp)));
            }
            _ => {}
        }
        let mut args = Vec::new();
        if self.eat("(") && !self.eat(")") {
            loop {
                // Arguments that name things stay constant.
                let named = matches!(
                    (name.as_str(), args.len()),
                    ("collate" | "convert_using", 1)
                        | ("extract" | "timestampdiff" | "timestampadd" | "get_format", 0)
                        | ("date_add" | "date_sub", 2)
                        | ("trim", 2)
                        | ("getvar" | "setvar", 0)
                        | (
                            "str_to_date"
                                | "round"
                                | "truncate"
                                | "like"
                                | "unix_timestamp"
                                | "from_unixtime"
                                | "maketime"
                                | "sec_to_time"
                                | "addtime"
                                | "subtime"
                                | "timediff"
                                | "timestamp"
                                | "now"
                                | "curtime"
                                | "in"
                                | "convert_tz",
                            _
                        )
                );
                let columns = if named { self.columns.take() } else { None };
                args.push(self.expr()?);
                if named {
                    self.columns = columns;
                }
                if !self.eat(",") {
                    break;
                }
            }
            assert!(self.eat(")"), "missing ) before {}", self.text);
        }
        if let Some(target) = name.strip_prefix("cast_") {
            let ty = cast_target(target);
            return build_cast(args.remove(0), ty, self.ctx);
        }
        build_function(&name, args, self.ctx)
    }
}

fn cast_target(name: &str) -> FieldType {
    let mut parts = name.split('_');
    let base = parts.next().unwrap_or("");
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match base {
        "signed" => FieldType::bigint(),
        "unsigned" => FieldType::bigint_unsigned(),
        "double" => FieldType::double(),
        "float" => FieldType::float(),
        "decimal" => FieldType::decimal(number().unwrap(), number().unwrap() as u8),
        "char" => match number() {
            Some(flen) => FieldType::varchar(flen),
            None => FieldType::string(),
        },
        "binary" => number().map_or(FieldType::varbinary(u32::MAX), FieldType::binary),
        "date" => FieldType::date(),
        "datetime" => FieldType::datetime(number().unwrap_or(0) as u8),
        "time" => FieldType::time(number().unwrap_or(0) as u8),
        "year" => FieldType::year(),
        "json" => FieldType::json(),
        other => panic!("unknown target {other}"),
    }
}

fn context() -> EvalContext {
    let info = SessionInfo {
        version: "8.0.11-Cairn".into(),
        database: Some("test".into()),
        user: "root@localhost".into(),
        current_user: "root@%".into(),
        connection_id: 7,
        ..SessionInfo::default()
    };
    let counters = StatementCounters { last_insert_id: 42, row_count: -1, found_rows: 0 };
    EvalContext {
        // 2024-02-29 12:34:56.789012 UTC
        now_micros: 1_709_210_096_789_012,
        time_zone: TimeZone::parse("+08:00").unwrap(),
        info: info.into(),
        counters,
        ..EvalContext::default()
    }
}

fn show(value: &Datum, ty: &FieldType) -> String {
    if value.is_null() {
        return "NULL".into();
    }
    let mut out = Vec::new();
    write_text(&mut out, value.as_ref(), ty);
    match String::from_utf8(out) {
        Ok(text) if ty.is_string() => format!("'{}'", text.replace('\n', "\\n")),
        Ok(text) => text,
        Err(error) => format!("{:02X?}", error.as_bytes()),
    }
}

fn answer(text: &str) -> String {
    let mut ctx = context();
    let mut parser = Parser { text, ctx: &mut ctx, columns: None };
    let expr = match parser.expr() {
        Ok(expr) => expr,
        Err(error) => return format!("ERROR {}: {error}", error.mysql_code()),
    };
    let value = expr.eval_row(&NoRow, &mut ctx);
    let mut out = match &value {
        Ok(value) => format!("{} {}", expr.ty(), show(value, expr.ty())),
        Err(error) => format!("ERROR {}: {error}", error.mysql_code()),
    };
    for warning in ctx.warnings.list() {
        let _ = write!(out, " [{} {}]", warning.code, warning.message);
    }
    let disagreement = check_vectors(text, &value).err().unwrap_or_default();
    out + &disagreement
}

/// The same expression over columns, by row and by chunk.
fn check_vectors(text: &str, folded: &Result<Datum, crate::ExprError>) -> Result<(), String> {
    let mut ctx = context();
    let mut parser = Parser { text, ctx: &mut ctx, columns: Some(Vec::new()) };
    let Ok(expr) = parser.expr() else { return Ok(()) };
    let columns = parser.columns.unwrap_or_default();
    let incomparable = expr.any(&mut |e| {
        matches!(e, Expr::Function { func: Func::Rand | Func::Uuid | Func::Coercibility, .. })
    });
    if columns.is_empty() || incomparable {
        return Ok(());
    }
    let row: Vec<Datum> = columns.iter().map(|(value, _)| value.clone()).collect();
    let by_row = expr.eval_row(&row, &mut ctx);
    let repeated = columns.iter().map(|(value, ty)| {
        let mut column = Column::new(ty, 3);
        (0..3).for_each(|_| column.push(value.as_ref()));
        column
    });
    let mut chunk = Chunk::from_columns(repeated.collect());
    chunk.sel = Some(vec![0, 2]);
    let by_chunk = expr.eval(&chunk, &mut ctx).map(|column| column.get(1).to_owned());
    let text = |value: &Datum| show(value, &FieldType::string());
    let same = |a: &Datum, b: &Datum| {
        // Columns of text have no known fractional digits; equal values will do.
        text(a) == text(b) || a == b
    };
    let agree = match (folded, &by_row, &by_chunk) {
        (Ok(a), Ok(b), Ok(c)) => same(a, b) && same(b, c),
        (_, Err(a), Err(b)) => a.mysql_code() == b.mysql_code(),
        _ => false,
    };
    if agree {
        return Ok(());
    }
    Err(format!(" DISAGREE folded {folded:?}, by row {by_row:?}, by chunk {by_chunk:?}"))
}

fn run(name: &str) {
    let path = std::path::Path::new("src/testscripts").join(name);
    let script = std::fs::read_to_string(&path).unwrap();
    let mut rewritten = String::new();
    let mut failures = String::new();
    for line in script.lines() {
        if line.is_empty() || line.starts_with('#') {
            rewritten.push_str(line);
            rewritten.push('\n');
            continue;
        }
        let (expr, expected) = line.split_once(" => ").unwrap_or((line, ""));
        let actual = answer(expr.trim_end());
        if actual != expected {
            let _ = writeln!(failures, "{expr}\n  expected {expected}\n  actual   {actual}");
        }
        let _ = writeln!(rewritten, "{} => {actual}", expr.trim_end());
    }
    if std::env::var_os("CAIRN_REWRITE_GOLDEN").is_some() {
        std::fs::write(&path, rewritten).unwrap();
        return;
    }
    assert!(failures.is_empty(), "\n{failures}");
}

macro_rules! goldens {
    ($($name:ident;)*) => {$(
        #[test]
        fn $name() {
            run(concat!(stringify!($name), ".golden"));
        }
    )*};
}

goldens! {
    arithmetic;
    comparison;
    control;
    string;
    datetime;
    json;
    cast;
    misc;
}
