//! Pipelines as text.
//!
//! | step | operator |
//! |---|---|
//! | `scan T [desc]`, `points T H…`, `index T.I [desc]` | scans |
//! | `lookup T` | index lookup by the last column |
//! | `values (E, …) (…)`, `dual`, `use NAME` | constants, a named pipeline |
//! | `where E, …`, `project E, …`, `limit N [offset M]`, `one`, `exchange` | |
//! | `agg [stream] [partial\|final] F(E) … [by E, …]` | aggregation |
//! | `window [partition E, …] [order E [desc], …] [FRAME] F(E, …) …` | see [`window`](super::window) |
//! | `sort E [desc], …`, `topn N [offset M] by E [desc], …` | |
//! | `join KIND NAME [null_aware] [build_left] [on E = E, …] [where E, …]` | |
//! | `broadcast KIND NAME …` | the same as in a fragment, NAME's rows being a table; its key a column |
//! | `lookup_join KIND NAME by E, … [build_left] [on E = E, …] [where E, …]` | `$0` inside NAME: its keys |
//! | `apply KIND NAME [null_aware] [with E, …] [where E, …]` | `$0`, … inside NAME |
//! | `union NAME` | |
//! | `rounds N [distinct] NAME` | a recursive union; inside NAME the step `last` reads the last round |

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use cairn_expr::agg::build_aggregate;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, Datum, FieldType};

use super::expr_text::Parser;
use super::tables::Tables;
use crate::broadcast::BroadcastTable;
use crate::context::ExecContext;
use crate::memory::MemoryTracker;
use crate::operator::BoxOperator;
use crate::operators::*;
use crate::plan::*;
use crate::source::KeyRange;
use crate::spill::{SpillSizes, SpillSpace};
use crate::testing::{MemoryStorage, collect_rows, format_rows};

/// A few rows are more than memory holds.
const SPILL_SIZES: SpillSizes =
    SpillSizes { floor_bytes: 900, block_bytes: 64, partitions: 3, merge_runs: (2, 2) };
/// Keys that one look-up of a join takes.
const LOOKUP_KEYS_MAX: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tables and settings of a script.
#[derive(Default)]
pub(super) struct Session {
    pub(super) tables: Tables,
    pub(super) memory_limit: u64,
    /// Whether what the limit does not hold goes to disk.
    pub(super) spills: bool,
}

impl Session {
    /// Runs a pipeline and prints what it gives.
    pub(super) async fn run(&self, text: &str, named: &BTreeMap<String, String>) -> Result<String> {
        let mut ctx = ExecContext::new(EvalContext::default())
            .with_memory(MemoryTracker::root("statement", self.memory_limit));
        let disk = MemoryTracker::root("statement", 0);
        let storage = Arc::new(MemoryStorage::default());
        if self.spills {
            let space = SpillSpace::new(storage.clone(), disk.clone());
            ctx.spill = Some(space.with_sizes(SPILL_SIZES));
        }
        // Small chunks, so that every operator meets several.
        ctx.chunk_rows_init = 2;
        ctx.chunk_rows_max = 3;
        let builder = Builder { session: self, named, ctx: ctx.clone(), last: None };
        let operator = builder.pipeline(text)?;
        let mut output = String::new();
        let types: Vec<String> = operator.schema().iter().map(|ty| ty.to_string()).collect();
        writeln!(output, "({})", types.join(", "))?;
        let types = operator.schema().to_vec();
        let rows = collect_rows(operator).await?;
        output.push_str(&format_rows(&rows, &types));
        for key in ctx.remote_row_keys.take() {
            let (_, handle) = cairn_types::keys::decode_row_key(&key)?;
            writeln!(output, "remote: {handle}")?;
        }
        for warning in ctx.warnings.lock().list() {
            writeln!(output, "warning: {}", warning.message)?;
        }
        if self.spills {
            let spilled = if storage.writes() > 0 { "yes" } else { "no" };
            let left = (disk.used_bytes(), storage.open_files());
            writeln!(output, "spilled: {spilled}, left behind: {left:?}")?;
        }
        Ok(output)
    }
}

#[derive(Clone)]
struct Builder<'a> {
    session: &'a Session,
    named: &'a BTreeMap<String, String>,
    ctx: ExecContext,
    /// Types of a recursive union, and the rows of its last round.
    last: Option<(Vec<FieldType>, RoundRows)>,
}

impl Builder<'_> {
    fn pipeline(&self, text: &str) -> Result<BoxOperator> {
        let mut tree: Option<BoxOperator> = None;
        for step in text.split('|') {
            let (name, rest) = step.trim().split_once(' ').unwrap_or((step.trim(), ""));
            let operator = match tree.take() {
                None => self.leaf(name, rest)?,
                Some(input) => self.step(name, rest, input)?,
            };
            tree = Some(operator);
        }
        tree.ok_or_else(|| "an empty pipeline".into())
    }

    fn named(&self, name: &str) -> Result<BoxOperator> {
        self.pipeline(self.named.get(name).ok_or_else(|| format!("no pipeline {name}"))?)
    }

    fn leaf(&self, name: &str, rest: &str) -> Result<BoxOperator> {
        let source = self.session.tables.source().shared();
        let ctx = self.ctx.clone();
        let (target, desc) = match rest.strip_suffix(" desc") {
            Some(target) => (target, true),
            None => (rest, false),
        };
        Ok(match name {
            "scan" => {
                let (scan, ranges) = self.session.tables.table_scan(target, desc)?;
                Box::new(TableScan::new(&scan, ranges, source, ctx)?)
            }
            "points" => {
                let mut words = rest.split(' ');
                let (scan, _) =
                    self.session.tables.table_scan(words.next().unwrap_or_default(), false)?;
                let mut ranges = Vec::new();
                for word in words {
                    let handle = cairn_types::Handle::Int(word.parse()?);
                    let key = cairn_types::keys::encode_row_key(scan.table_id, &handle);
                    ranges.push(KeyRange::point(&key));
                }
                Box::new(TableScan::new(&scan, ranges, source, ctx)?)
            }
            "index" => {
                let (table, index) = target.split_once('.').ok_or("which index?")?;
                let (scan, ranges) = self.session.tables.index_scan(table, index, desc)?;
                Box::new(IndexScan::new(&scan, ranges, source, ctx)?)
            }
            "values" => {
                let mut parser = Parser::new(rest, &[]);
                let mut rows = Vec::new();
                while parser.accept("(") {
                    rows.push(parser.list()?);
                    parser.accept(")");
                }
                let typed = |at: usize| {
                    let column = rows.iter().map(|row: &Vec<Expr>| &row[at]);
                    let known = column.clone().find(|expr| !expr.is_null_constant());
                    known.unwrap_or(&rows[0][at]).ty().clone()
                };
                let schema = (0..rows[0].len()).map(typed).collect();
                Box::new(Values::new(schema, rows, ctx)?)
            }
            "dual" => Box::new(Values::dual(ctx)),
            "last" => {
                let (types, rows) = self.last.clone().ok_or("no round has been run")?;
                Box::new(WorkTable::new(types, rows))
            }
            "use" => self.named(rest)?,
            _ => return Err(format!("unknown source {name}").into()),
        })
    }

    fn step(&self, name: &str, rest: &str, input: BoxOperator) -> Result<BoxOperator> {
        let schema = input.schema().to_vec();
        let mut parser = Parser::new(rest, &schema);
        let ctx = self.ctx.clone();
        Ok(match name {
            "where" => {
                let desc = SelectionDesc { conditions: parser.list()? };
                Box::new(Selection::new(input, &desc, ctx)?)
            }
            "project" => {
                let desc = ProjectionDesc { exprs: parser.list()? };
                Box::new(Projection::new(input, &desc, ctx)?)
            }
            "lookup" => {
                let table = self.session.tables.get(rest)?;
                let desc = IndexLookupDesc {
                    table_id: table.id,
                    columns: table.columns.clone(),
                    handle_types: table.handle_types(),
                };
                let source = self.session.tables.source().shared();
                Box::new(IndexLookup::new(input, &desc, source, ctx)?)
            }
            "limit" => {
                let (limit, offset) = limit_offset(&mut parser)?;
                Box::new(Limit::new(input, &LimitDesc { offset, limit }))
            }
            "sort" => {
                let desc = SortDesc { order_by: sort_items(&mut parser)? };
                Box::new(Sort::new(input, &desc, ctx)?)
            }
            "topn" => {
                let (limit, offset) = limit_offset(&mut parser)?;
                parser.accept("by");
                let desc = TopNDesc { order_by: sort_items(&mut parser)?, offset, limit };
                Box::new(TopN::new(input, &desc, ctx)?)
            }
            "agg" => aggregation(&mut parser, input, ctx)?,
            "window" => Box::new(Window::new(input, &super::window::desc(&mut parser)?, ctx)?),
            "rounds" => self.rounds(&mut parser, input)?,
            "one" => Box::new(MaxOneRow::new(input)),
            "exchange" => Box::new(Exchange::spawn(input, &ctx)),
            "union" => Box::new(UnionAll::new(schema, vec![input, self.named(rest)?])),
            "join" => self.join(&mut parser, input)?,
            "broadcast" => self.broadcast(&mut parser, input)?,
            "lookup_join" => self.lookup_join(&mut parser, input)?,
            "apply" => self.apply(&mut parser, input)?,
            _ => return Err(format!("unknown step {name}").into()),
        })
    }

    fn join(&self, parser: &mut Parser<'_>, left: BoxOperator) -> Result<BoxOperator> {
        let kind = join_kind(parser.word())?;
        let right = self.named(parser.word())?;
        let desc = join_desc(parser, kind, left.schema(), right.schema())?;
        Ok(Box::new(HashJoin::new(left, right, desc, self.ctx.clone())?))
    }

    fn broadcast(&self, parser: &mut Parser<'_>, probe: BoxOperator) -> Result<BoxOperator> {
        let kind = join_kind(parser.word())?;
        let build = self.named(parser.word())?;
        let table_types = build.schema().to_vec();
        let join = match parser.rest.contains("build_left") {
            true => join_desc(parser, kind, &table_types, probe.schema())?,
            false => join_desc(parser, kind, probe.schema(), &table_types)?,
        };
        let rows = futures::executor::block_on(collect_rows(build))?;
        let mut chunk = Chunk::new(&table_types, rows.len());
        rows.iter().for_each(|row| chunk.push_row(row));
        let mut bytes = Vec::new();
        chunk.encode(&mut bytes);
        let memory = self.ctx.account("broadcast table");
        let table = BroadcastTable::decode(table_types.clone(), &bytes, memory)?;
        let ctx = self.ctx.clone().with_tables(Arc::new([Arc::new(table)]));
        let desc = BroadcastJoinDesc { join, table: 0, table_types };
        Ok(Box::new(BroadcastJoin::new(probe, &desc, ctx)?))
    }

    fn lookup_join(&self, parser: &mut Parser<'_>, outer: BoxOperator) -> Result<BoxOperator> {
        let kind = join_kind(parser.word())?;
        let text = self.named.get(parser.word()).ok_or("no such pipeline")?.clone();
        parser.accept("by");
        let lookup_keys = parser.list()?;
        let inner_types = self.pipeline(&text.replace("$0", ""))?.schema().to_vec();
        let join = match parser.rest.contains("build_left") {
            true => join_desc(parser, kind, &inner_types, outer.schema())?,
            false => join_desc(parser, kind, outer.schema(), &inner_types)?,
        };
        // The factory outlives this builder: it gets all it needs as its own.
        let (tables, named) = (self.session.tables.clone(), self.named.clone());
        let session = Session { tables, ..Session::default() };
        let ctx = self.ctx.clone();
        let types: Vec<FieldType> = lookup_keys.iter().map(|key| key.ty().clone()).collect();
        let factory: InnerFactory = Box::new(move |keys: &[Vec<Datum>]| {
            let builder =
                Builder { session: &session, named: &named, ctx: ctx.clone(), last: None };
            // As if much had to be read.
            let taken = keys.len().min(LOOKUP_KEYS_MAX);
            let texts = keys[..taken].iter().filter(|key| !key[0].is_null());
            let texts: Vec<String> =
                texts.map(|key| crate::testing::format_value(&key[0], &types[0])).collect();
            if texts.is_empty() {
                return Ok(InnerRows { operator: None, keys: taken });
            }
            let built = builder.pipeline(&text.replace("$0", &format!(" {}", texts.join(" "))));
            let built = built.map_err(|error| crate::ExecError::invalid_plan(error.to_string()))?;
            Ok(InnerRows { operator: Some(built), keys: taken })
        });
        let desc = IndexJoinDesc { join, lookup_keys };
        Ok(Box::new(IndexJoin::new(outer, inner_types, factory, desc, self.ctx.clone())?))
    }

    fn rounds(&self, parser: &mut Parser<'_>, seed: BoxOperator) -> Result<BoxOperator> {
        let rounds_max = parser.word().parse()?;
        let distinct = parser.accept("distinct");
        let text = self.named.get(parser.word()).ok_or("no such pipeline")?.clone();
        let types = seed.schema().to_vec();
        let names = (0..types.len()).map(|at| format!("c{at}"));
        let columns = names.zip(types.clone()).collect();
        let desc = RecursiveUnionDesc { columns, distinct, rounds_max };
        let (tables, named) = (self.session.tables.clone(), self.named.clone());
        let session = Session { tables, ..Session::default() };
        let ctx = self.ctx.clone();
        let factory: RoundFactory = Box::new(move |rows: RoundRows| {
            let last = Some((types.clone(), rows));
            let builder = Builder { session: &session, named: &named, ctx: ctx.clone(), last };
            let built = builder.pipeline(&text);
            let built = built.map_err(|error| crate::ExecError::invalid_plan(error.to_string()))?;
            Ok(vec![built])
        });
        Ok(Box::new(RecursiveUnion::new(seed, factory, desc, self.ctx.clone())?))
    }

    fn apply(&self, parser: &mut Parser<'_>, outer: BoxOperator) -> Result<BoxOperator> {
        let kind = join_kind(parser.word())?;
        let name = parser.word();
        let text = self.named.get(name).ok_or("no such pipeline")?.clone();
        let null_aware = parser.accept("null_aware");
        let mut outer_columns = Vec::new();
        if parser.accept("with") {
            outer_columns.extend(parser.list()?.iter().filter_map(Expr::as_column));
        }
        let types: Vec<FieldType> =
            outer_columns.iter().map(|column| outer.schema()[*column].clone()).collect();
        // Built once with NULLs to learn the types.
        let nulls = vec![Datum::Null; types.len()];
        let inner_types = self.pipeline(&bind(&text, &nulls, &types))?.schema().to_vec();
        let mut conditions = Vec::new();
        if parser.accept("where") {
            let both = [outer.schema(), &inner_types].concat();
            conditions = Parser::new(parser.rest, &both).list()?;
        }
        // The factory outlives this builder: it gets all it needs as its own.
        let (tables, named) = (self.session.tables.clone(), self.named.clone());
        let session = Session { tables, ..Session::default() };
        let ctx = self.ctx.clone();
        let factory: SubqueryFactory = Box::new(move |values: &[Datum]| {
            let builder =
                Builder { session: &session, named: &named, ctx: ctx.clone(), last: None };
            let built = builder.pipeline(&bind(&text, values, &types));
            built.map_err(|error| crate::ExecError::invalid_plan(error.to_string()))
        });
        let desc = ApplyDesc { kind, outer_columns, null_aware, conditions };
        Ok(Box::new(Apply::new(outer, inner_types, factory, desc, self.ctx.clone())?))
    }
}

/// What stands behind the inputs of a join.
fn join_desc(
    parser: &mut Parser<'_>,
    kind: JoinKind,
    left: &[FieldType],
    right: &[FieldType],
) -> Result<HashJoinDesc> {
    let mut desc = HashJoinDesc {
        kind,
        null_aware: parser.accept("null_aware"),
        left_keys: Vec::new(),
        right_keys: Vec::new(),
        null_safe: Vec::new(),
        other_conditions: Vec::new(),
        build_side: JoinSide::Right,
    };
    if parser.accept("build_left") {
        desc.build_side = JoinSide::Left;
    }
    if parser.accept("on") {
        loop {
            desc.left_keys.push(parser.expr()?);
            desc.null_safe.push(parser.accept("<=>"));
            parser.accept("=");
            let mut on_right = Parser::new(parser.rest, right);
            desc.right_keys.push(on_right.expr()?);
            let rest = on_right.rest.to_string();
            parser.rest = &parser.rest[parser.rest.len() - rest.len()..];
            if !parser.accept(",") {
                break;
            }
        }
    }
    if parser.accept("where") {
        let both = [left, right].concat();
        desc.other_conditions = Parser::new(parser.rest, &both).list()?;
    }
    Ok(desc)
}

/// Puts values in the place of `$0`, `$1`, ….
fn bind(text: &str, values: &[Datum], types: &[FieldType]) -> String {
    let mut text = text.to_string();
    for (at, (value, ty)) in values.iter().zip(types).enumerate() {
        let literal = match value {
            Datum::Bytes(bytes) => format!("'{}'", String::from_utf8_lossy(bytes)),
            other => crate::testing::format_value(other, ty),
        };
        text = text.replace(&format!("${at}"), &literal);
    }
    text
}

fn limit_offset(parser: &mut Parser<'_>) -> Result<(u64, u64)> {
    let limit = parser.word().parse()?;
    let offset = if parser.accept("offset") { parser.word().parse()? } else { 0 };
    Ok((limit, offset))
}

pub(super) fn sort_items(parser: &mut Parser<'_>) -> Result<Vec<SortItem>> {
    let mut items = Vec::new();
    loop {
        let expr = parser.expr()?;
        items.push(SortItem { expr, desc: parser.accept("desc") });
        if !parser.accept(",") {
            return Ok(items);
        }
    }
}

fn aggregation(
    parser: &mut Parser<'_>,
    input: BoxOperator,
    ctx: ExecContext,
) -> Result<BoxOperator> {
    let stream = parser.accept("stream");
    let mode = match () {
        () if parser.accept("partial") => AggMode::Partial,
        () if parser.accept("final") => AggMode::Final,
        () => AggMode::Complete,
    };
    let mut desc = AggregationDesc { group_by: Vec::new(), aggs: Vec::new(), mode, stream };
    loop {
        if parser.accept("by") {
            desc.group_by = parser.list()?;
            break;
        }
        let name = parser.word();
        if name.is_empty() {
            break;
        }
        parser.accept("(");
        let distinct = parser.accept("distinct");
        let args = parser.list()?;
        parser.accept(")");
        desc.aggs.push(build_aggregate(name, args, distinct, &mut EvalContext::default())?);
    }
    Ok(match stream {
        true => Box::new(StreamAgg::new(input, &desc, ctx)?),
        false => Box::new(HashAgg::new(input, &desc, ctx)?),
    })
}

fn join_kind(name: &str) -> Result<JoinKind> {
    Ok(match name {
        "inner" => JoinKind::Inner,
        "left" => JoinKind::LeftOuter,
        "right" => JoinKind::RightOuter,
        "semi" => JoinKind::Semi,
        "anti" => JoinKind::Anti,
        "mark" => JoinKind::LeftOuterSemi,
        "antimark" => JoinKind::AntiLeftOuterSemi,
        _ => return Err(format!("unknown join {name}").into()),
    })
}
