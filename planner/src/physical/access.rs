//! How a table is read: by handle, through an index, all of it, or point by point.
//!
//! Every path is priced (`pricing.rs`); the cheapest wins. A whole unique key with known
//! values is no question of price: it is a point read. A path whose order makes a sort
//! superfluous is compared with that sort added to the others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_executor::plan::{IndexLookupDesc, IndexScanDesc, OpDesc, ScanColumn, TableScanDesc};
use cairn_expr::{Expr, Func};
use cairn_types::{FieldType, TypeCode};

use super::cop::{CopTask, pushable};
use super::pricing::Pricing;
use super::{Physical, Root, Task, WantedOrder};
use crate::catalog::{IndexInfo, ROW_ID_COLUMN, TableInfo};
use crate::defaults::origin_default;
use crate::error::Result;
use crate::logical::{Col, Logical, LogicalScan, ScanCol};
use crate::plan::{BatchPointGet, MemTableScan, PhysicalOp, PointAccess, PointColumn, PointGet};
use crate::ranger::{Analysis, RangeColumn, RangeSpec, analyze};
use crate::statistics::{Estimate, guess};

/// Most keys of one batch of point reads; longer lists are scanned as ranges.
const POINTS_MAX: usize = 1024;

/// One way to read a table.
pub(super) struct Path {
    /// Offset of the index in the table; `None`: rows by handle.
    pub(super) index: Option<usize>,
    /// The key's columns.
    pub(super) key: Vec<KeyColumn>,
    /// What the conditions are worth on the key.
    pub(super) analysis: Analysis,
    /// Conditions over the key, by position, that the ranges use.
    pub(super) access: Vec<Expr>,
    /// The same conditions over the scan's columns.
    pub(super) ranged: Vec<Expr>,
    /// Conditions that are checked on the entries or rows.
    pub(super) filters: Vec<Expr>,
    /// The index holds all that is asked.
    pub(super) covering: bool,
    /// Rows come in the wanted order.
    pub(super) ordered: bool,
    /// Estimated rows of the scan.
    pub(super) rows: f64,
    /// Those of which rows are looked up, after filters on index entries.
    pub(super) entries: f64,
    /// What is expected after all filters.
    pub(super) result: Estimate,
    /// Whether the table was never analyzed.
    pub(super) is_pseudo: bool,
    /// What reading one row for an index entry costs.
    pub(super) lookup_cost: f64,
    /// Estimated cost.
    pub(super) cost: f64,
}

impl Path {
    /// Whether no value fulfils its conditions (`a = NULL`, `a > 3 AND a < 1`).
    pub(super) fn is_empty(&self) -> bool {
        self.analysis.ranges.is_empty()
    }

    /// The same path taken again and again.
    pub(super) fn repeat(&mut self, times: f64) {
        self.rows *= times;
        self.entries *= times;
        self.result.rows *= times;
    }
}

/// A column of a key.
pub(super) struct KeyColumn {
    /// Its offset in the table; `None`: the hidden row id.
    pub(super) offset: Option<usize>,
    pub(super) range: RangeColumn,
}

impl Physical<'_> {
    /// `row_goal`: how many rows a LIMIT above asks for.
    pub(super) fn scan(
        &mut self,
        scan: &LogicalScan,
        order: WantedOrder<'_>,
        row_goal: Option<f64>,
    ) -> Result<Task> {
        let scan = &*self.bound(scan);
        if scan.table.is_virtual {
            return self.mem_table(scan);
        }
        let mut paths = self.paths(scan, &[], order);
        if paths.iter().any(Path::is_empty) {
            let columns: Vec<Col> = scan.columns.iter().map(|column| column.col).collect();
            return self.task(&Logical::Dual { rows: 0, columns }, None);
        }
        // Statistics are no business of point reads.
        if let Some(task) = self.point(scan, &paths)? {
            return Ok(task);
        }
        let order_wanted = order.is_some();
        self.price(scan, &mut paths, &Pricing { order_wanted, row_goal, has_lookups: false });
        let best = paths
            .into_iter()
            .min_by(|a, b| a.cost.total_cmp(&b.cost))
            .expect("the table itself is always a path");
        let keep_order = best.ordered && order.is_some();
        let desc = keep_order && order.is_some_and(|keys| keys.first().is_some_and(|k| k.desc));
        self.cop_task(scan, best, keep_order, desc)
    }

    /// A table in FROM with the columns of enclosing queries as slots.
    pub(super) fn bound<'s>(&self, scan: &'s LogicalScan) -> Cow<'s, LogicalScan> {
        if self.correlated.is_empty() {
            return Cow::Borrowed(scan);
        }
        let conditions = scan.conditions.iter().map(|c| self.bind_correlated(c)).collect();
        Cow::Owned(LogicalScan { conditions, ..scan.clone() })
    }

    fn mem_table(&mut self, scan: &LogicalScan) -> Result<Task> {
        let conditions = &scan.conditions;
        let layout: Vec<Col> = scan.columns.iter().map(|column| column.col).collect();
        let op = PhysicalOp::MemTableScan(Box::new(MemTableScan {
            db: scan.db.clone(),
            alias: scan.alias.clone(),
            table: scan.table.clone(),
            columns: scan.columns.iter().filter_map(|column| column.offset).collect(),
            conditions: self.resolve_all(conditions, &layout)?,
        }));
        let schema = self.schema(&layout);
        let estimate = Box::new(Estimate::of_rows(guess::PSEUDO_ROWS));
        let plan = self.node(op, Vec::new(), estimate.rows, schema);
        let root = Root { plan, layout, ordered: false, estimate };
        Ok(Task::Root(self.root_filter(root, conditions)?))
    }

    /// All ways to read the table that hints allow. Ranges may use `lookups` too; they are not
    /// checked on the rows.
    pub(super) fn paths(
        &self,
        scan: &LogicalScan,
        lookups: &[Expr],
        order: WantedOrder<'_>,
    ) -> Vec<Path> {
        let table = &scan.table;
        let mut paths = Vec::with_capacity(table.indices.len() + 1);
        let handle: Vec<KeyColumn> = if table.common_handle {
            let key = table.primary_key().map(|key| key.columns.clone()).unwrap_or_default();
            key.iter().map(|part| key_column(table, part.offset, part.prefix_length)).collect()
        } else if let Some(offset) = table.handle_column() {
            vec![key_column(table, offset, None)]
        } else {
            let ty = FieldType::bigint().with_not_null();
            vec![KeyColumn { offset: None, range: RangeColumn { ty, prefix_length: None } }]
        };
        paths.push(self.path(scan, None, handle, lookups, order));
        let hints = &scan.hints;
        for (at, index) in table.indices.iter().enumerate() {
            let usable = index.state.is_public()
                && !index.invisible
                && table.has_entries(index)
                && !hints.ignore.contains(&at)
                && hints.only.as_ref().is_none_or(|only| only.contains(&at));
            if !usable {
                continue;
            }
            let key = index.columns.iter();
            let key = key.map(|part| key_column(table, part.offset, part.prefix_length)).collect();
            paths.push(self.path(scan, Some(at), key, lookups, order));
        }
        // USE and FORCE: the table only if no named index is of any use.
        let forced = hints.only.is_some() && !hints.allow_table && paths.len() > 1;
        if forced {
            paths.remove(0);
        }
        paths
    }

    fn path(
        &self,
        scan: &LogicalScan,
        index: Option<usize>,
        key: Vec<KeyColumn>,
        lookups: &[Expr],
        order: WantedOrder<'_>,
    ) -> Path {
        let conditions = &scan.conditions;
        let positions: Vec<Option<Col>> = key.iter().map(|k| scan.col_of(k.offset)).collect();
        let columns: Vec<RangeColumn> = key.iter().map(|k| k.range.clone()).collect();
        let all = conditions.iter().chain(lookups);
        let on_key: Vec<Option<Expr>> =
            all.clone().map(|condition| over_key(condition, &positions)).collect();
        let candidates: Vec<Expr> = on_key.iter().flatten().cloned().collect();
        let analysis = analyze(&columns, &candidates);
        let mut access = Vec::new();
        let mut ranged = Vec::new();
        let mut filters = Vec::new();
        let mut number = 0;
        for (at, (condition, on_key)) in all.zip(on_key).enumerate() {
            let exact = match on_key {
                None => false,
                Some(on_key) => {
                    if analysis.used[number] {
                        access.push(on_key);
                        ranged.push(condition.clone());
                    }
                    number += 1;
                    analysis.exact[number - 1]
                }
            };
            if !exact && at < conditions.len() {
                filters.push(condition.clone());
            }
        }
        let covering = index.is_some_and(|at| covers(scan, &scan.table.indices[at]));
        let ordered = order.is_some_and(|keys| {
            let wanted: Option<Vec<Col>> = keys.iter().map(|key| key.expr.as_column()).collect();
            wanted.is_some_and(|wanted| gives_order(&positions, &key, &analysis, &wanted))
        });
        let unsigned_handle = index.is_none()
            && key.first().is_some_and(|k| k.range.ty.unsigned && k.offset.is_some());
        // Rows come through a look-up as their stores answer: no order.
        let ordered = ordered && (index.is_none() || covering) && !unsigned_handle;
        Path {
            index,
            key,
            analysis,
            access,
            ranged,
            filters,
            covering,
            ordered,
            rows: 0.0,
            entries: 0.0,
            result: Estimate::default(),
            is_pseudo: true,
            lookup_cost: 0.0,
            cost: 0.0,
        }
    }

    /// A point read, if some unique key is given as a whole.
    fn point(&mut self, scan: &LogicalScan, paths: &[Path]) -> Result<Option<Task>> {
        for path in paths {
            let unique = path.index.is_none_or(|at| scan.table.indices[at].unique);
            let whole = path.analysis.point_columns == path.key.len();
            let prefix = path.key.iter().any(|k| k.range.prefix_length.is_some());
            if !unique || !whole || prefix || path.analysis.points > POINTS_MAX {
                continue;
            }
            let Some(keys) = point_keys(&path.access, path.key.len()) else { continue };
            let layout: Vec<Col> = scan.columns.iter().map(|column| column.col).collect();
            let columns = scan.columns.iter().map(|column| match column.offset {
                Some(offset) => PointColumn::Column(offset),
                None => PointColumn::Handle,
            });
            let access = PointAccess {
                db: scan.db.clone(),
                alias: scan.alias.clone(),
                table: scan.table.clone(),
                index: path.index.map(|at| Arc::new(scan.table.indices[at].clone())),
                columns: columns.collect(),
                conditions: self.resolve_all(&path.filters, &layout)?,
            };
            let mut estimate = Box::new(Estimate::of_rows(keys.len() as f64));
            let op = if keys.len() == 1 {
                let key = keys.into_iter().next().unwrap_or_default();
                PhysicalOp::PointGet(Box::new(PointGet { access, key, lock: None }))
            } else {
                PhysicalOp::BatchPointGet(Box::new(BatchPointGet { access, keys, lock: None }))
            };
            let ordered = matches!(op, PhysicalOp::PointGet(_));
            if ordered {
                estimate.unique.push(BTreeSet::new());
            }
            let schema = self.schema(&layout);
            let plan = self.node(op, Vec::new(), estimate.rows, schema);
            return Ok(Some(Task::Root(Root { plan, layout, ordered, estimate })));
        }
        Ok(None)
    }

    /// The scan, the look-up and the filters of a path.
    pub(super) fn cop_task(
        &mut self,
        scan: &LogicalScan,
        path: Path,
        keep_order: bool,
        desc: bool,
    ) -> Result<Task> {
        let table = scan.table.clone();
        let columns: Vec<RangeColumn> = path.key.iter().map(|k| k.range.clone()).collect();
        let ranges = RangeSpec::new(columns, path.access.clone());
        let index = path.index.map(|at| Arc::new(table.indices[at].clone()));
        let mut cop = CopTask {
            db: scan.db.clone(),
            alias: scan.alias.clone(),
            table,
            index: index.clone(),
            operators: Vec::new(),
            info: Vec::new(),
            ranges,
            keep_order,
            desc,
            limit: None,
            layout: Vec::new(),
            estimate: Estimate { rows: path.rows, ..path.result.clone() },
            is_pseudo: path.is_pseudo,
            lookup_cost: path.lookup_cost,
            lookup: index.is_some() && !path.covering,
            tables: Vec::new(),
        };
        let (pushed, kept): (Vec<Expr>, Vec<Expr>) = path
            .filters
            .iter()
            .cloned()
            .partition(|filter| pushable(filter) && self.options.push_down);
        let result = match kept.is_empty() {
            true => path.result.clone(),
            false => self.estimator().filter(&cop.estimate, &pushed),
        };
        match index {
            None => {
                self.push_table_scan(scan, &mut cop, path.access.is_empty());
                self.push_filter(&mut cop, &pushed, result)?;
            }
            Some(index) => {
                let full = path.access.is_empty();
                let needed = path.covering.then_some(&scan.columns[..]);
                self.push_index_scan(scan, &index, &mut cop, needed, full);
                if path.covering {
                    self.push_filter(&mut cop, &pushed, result)?;
                } else {
                    let (on_entry, on_row) = split_filters(scan, &index, &pushed);
                    let rows = if on_row.is_empty() { result.rows } else { path.entries };
                    let entries = Estimate { rows, ..result.clone() };
                    self.push_filter(&mut cop, &on_entry, entries)?;
                    self.push_lookup(scan, &mut cop);
                    self.push_filter(&mut cop, &on_row, result)?;
                }
            }
        }
        let task = Task::Cop(Box::new(cop));
        if kept.is_empty() {
            return Ok(task);
        }
        let root = self.finish(task)?;
        Ok(Task::Root(self.root_filter(root, &kept)?))
    }

    fn push_table_scan(&mut self, scan: &LogicalScan, cop: &mut CopTask, full: bool) {
        let columns = scan.columns.iter().map(|column| self.stored(&scan.table, *column)).collect();
        let op = OpDesc::TableScan(TableScanDesc {
            table_id: scan.table.id,
            columns,
            desc: cop.desc,
            handle_types: handle_types(&scan.table),
        });
        let name = if full { "TableFullScan" } else { "TableRangeScan" };
        self.push_source(scan, cop, op, name);
    }

    fn push_source(
        &mut self,
        scan: &LogicalScan,
        cop: &mut CopTask,
        op: OpDesc,
        name: &'static str,
    ) {
        cop.layout = scan.columns.iter().map(|column| column.col).collect();
        self.push(cop, op, name);
    }

    fn push_index_scan(
        &mut self,
        scan: &LogicalScan,
        index: &IndexInfo,
        cop: &mut CopTask,
        needed: Option<&[ScanCol]>,
        full: bool,
    ) {
        let table = &scan.table;
        let mut columns = Vec::with_capacity(index.columns.len() + 1);
        let mut layout = Vec::with_capacity(index.columns.len() + 1);
        for part in &index.columns {
            let col = scan.col_of(Some(part.offset));
            // Entries hold columns nobody asked for; they need numbers all the same.
            let ty = table.columns[part.offset].ty.clone();
            let name = || format!("{}.{}.{}", scan.db, table.name, table.columns[part.offset].name);
            layout.push(col.unwrap_or_else(|| self.columns.add_named(ty, name())));
            let column = ScanCol { col: usize::MAX, offset: Some(part.offset) };
            columns.push(self.stored(table, column));
        }
        match needed {
            // Look-ups take the handle from the last column.
            None if table.common_handle => {
                let ty = FieldType::new(TypeCode::VarBinary).with_not_null();
                layout.push(self.columns.add(ty.clone()));
                columns.push(ScanColumn::handle(ROW_ID_COLUMN, ty));
            }
            None => {
                let offset = table.handle_column();
                let ty = match offset {
                    Some(offset) => table.columns[offset].ty.clone(),
                    None => FieldType::bigint().with_not_null(),
                };
                layout.push(self.columns.add(ty));
                columns.push(self.stored(table, ScanCol { col: usize::MAX, offset }));
            }
            Some(needed) => {
                for column in needed {
                    if !layout.contains(&column.col) {
                        layout.push(column.col);
                        columns.push(self.stored(table, *column));
                    }
                }
            }
        }
        let op = OpDesc::IndexScan(IndexScanDesc {
            table_id: table.id,
            index_id: index.id,
            columns,
            desc: cop.desc,
            unique: index.unique,
            handle_types: handle_types(table),
        });
        cop.layout = layout;
        self.push(cop, op, if full { "IndexFullScan" } else { "IndexRangeScan" });
    }

    fn push_lookup(&mut self, scan: &LogicalScan, cop: &mut CopTask) {
        let columns = scan.columns.iter().map(|column| self.stored(&scan.table, *column)).collect();
        let op = OpDesc::IndexLookup(IndexLookupDesc {
            table_id: scan.table.id,
            columns,
            handle_types: handle_types(&scan.table),
        });
        self.push_source(scan, cop, op, "TableRowIDScan");
    }

    /// A column as it is stored.
    fn stored(&mut self, table: &TableInfo, column: ScanCol) -> ScanColumn {
        let Some(offset) = column.offset else {
            return ScanColumn::handle(ROW_ID_COLUMN, FieldType::bigint().with_not_null());
        };
        let info = &table.columns[offset];
        if table.handle_column() == Some(offset) {
            return ScanColumn::handle(info.id, info.ty.clone());
        }
        let default = origin_default(info, self.eval);
        let stored = ScanColumn::new(info.id, info.ty.clone()).with_default(default);
        match table.common_handle_columns().iter().position(|at| *at == offset) {
            Some(part) => stored.with_handle_part(part),
            None => stored,
        }
    }
}

fn key_column(table: &TableInfo, offset: usize, prefix_length: Option<u32>) -> KeyColumn {
    let ty = table.columns[offset].ty.clone();
    KeyColumn { offset: Some(offset), range: RangeColumn { ty, prefix_length } }
}

/// Types of a common handle's columns.
fn handle_types(table: &TableInfo) -> Vec<FieldType> {
    let offsets = table.common_handle_columns();
    offsets.iter().map(|offset| table.columns[*offset].ty.clone()).collect()
}

/// A condition over key positions; `None` if it needs other columns.
fn over_key(condition: &Expr, positions: &[Option<Col>]) -> Option<Expr> {
    let mut covered = true;
    let mut columns = false;
    condition.walk(&mut |expr| {
        if let Expr::Column { index, .. } = expr {
            columns = true;
            covered &= positions.contains(&Some(*index));
        }
        covered
    });
    if !covered || !columns || !condition.is_deterministic() {
        return None;
    }
    let place = |col: usize| positions.iter().position(|known| *known == Some(col));
    condition.clone().remap_columns(&place).ok()
}

/// Whether entries of an index hold every column that is asked for.
fn covers(scan: &LogicalScan, index: &IndexInfo) -> bool {
    scan.columns.iter().all(|column| on_entry(scan, index, column.offset))
}

/// Whether entries of an index hold a column.
fn on_entry(scan: &LogicalScan, index: &IndexInfo, offset: Option<usize>) -> bool {
    let Some(offset) = offset else { return true };
    let whole =
        |part: &crate::catalog::IndexColumn| part.offset == offset && part.prefix_length.is_none();
    index.columns.iter().any(whole)
        || scan.table.handle_column() == Some(offset)
        || scan.table.common_handle
            && scan.table.primary_key().is_some_and(|key| key.columns.iter().any(whole))
}

/// Filters that index entries can answer, and the others.
pub(super) fn split_filters(
    scan: &LogicalScan,
    index: &IndexInfo,
    filters: &[Expr],
) -> (Vec<Expr>, Vec<Expr>) {
    filters.iter().cloned().partition(|filter| {
        filter.columns().into_iter().all(|col| match scan.offset_of(col) {
            // The handle stands behind the index columns in another form.
            Some(Some(offset)) => index
                .columns
                .iter()
                .any(|part| part.offset == offset && part.prefix_length.is_none()),
            _ => false,
        })
    })
}

/// Whether a scan of the key gives rows ordered by `wanted`: columns fixed to one value
/// may stand in front or between.
fn gives_order(
    positions: &[Option<Col>],
    key: &[KeyColumn],
    analysis: &Analysis,
    wanted: &[Col],
) -> bool {
    let single = analysis.points <= 1;
    let mut wanted = wanted.iter().peekable();
    for (at, col) in positions.iter().enumerate() {
        let Some(next) = wanted.peek() else { break };
        if key[at].range.prefix_length.is_some() {
            return false;
        }
        if *col == Some(**next) {
            wanted.next();
        } else if !(single && at < analysis.point_columns) {
            return false;
        }
    }
    wanted.peek().is_none()
}

/// Key values of a point read, if the conditions are equalities and IN lists.
fn point_keys(access: &[Expr], width: usize) -> Option<Vec<Vec<Expr>>> {
    let mut keys: Vec<Vec<Expr>> = vec![Vec::with_capacity(width)];
    for position in 0..width {
        let mut values: Option<Vec<Expr>> = None;
        for condition in access {
            if condition.columns().into_iter().ne([position]) {
                continue;
            }
            // Two conditions on one column: a scan sorts them out.
            if values.is_some() {
                return None;
            }
            values = Some(match condition.as_function()? {
                (Func::Eq, [left, right]) if left.as_column() == Some(position) => {
                    vec![right.clone()]
                }
                (Func::Eq, [left, right]) if right.as_column() == Some(position) => {
                    vec![left.clone()]
                }
                (Func::In, [left, list @ ..]) if left.as_column() == Some(position) => {
                    list.to_vec()
                }
                _ => return None,
            });
        }
        let values = values?;
        let mut longer = Vec::with_capacity(keys.len() * values.len());
        for key in &keys {
            for value in &values {
                let mut key = key.clone();
                key.push(value.clone());
                longer.push(key);
            }
        }
        keys = longer;
    }
    Some(keys)
}
