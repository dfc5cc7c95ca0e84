//! FROM: tables, derived tables, joins.

use std::sync::Arc;

use cairn_executor::plan::JoinKind;
use cairn_expr::Expr;
use cairn_parser::ast::{self, IndexHintKind, JoinCondition};
use cairn_types::{FieldType, errno};

use super::{Binder, ExprEnv, Field, Scope, find_field};
use crate::catalog::{PRIMARY_NAME, ROW_ID_NAME, TableInfo};
use crate::error::{PlanError, Result};
use crate::logical::{IndexHints, JoinHints, Logical, LogicalJoin, LogicalScan, ScanCol};
use crate::plan::AccessKind;

/// A stored table in FROM, for statements that change or lock its rows.
#[derive(Clone, Debug)]
pub(crate) struct BaseTable {
    /// Its database.
    pub db: String,
    /// The table.
    pub table: Arc<TableInfo>,
    /// Its alias, or its name.
    pub alias: String,
    /// Number of every column, by offset; `None` for columns that are not written.
    pub columns: Vec<Option<usize>>,
    /// Columns that make the handle.
    pub handle: Vec<usize>,
}

/// A plan, what it offers by name, and the stored tables in it.
pub(crate) type FromItem = (Logical, Vec<Field>, Vec<BaseTable>);

impl<'a> Binder<'a> {
    /// The comma list of FROM.
    pub(crate) fn from(&mut self, tables: &'a [ast::TableRef]) -> Result<FromItem> {
        let mut result: Option<FromItem> = None;
        for table in tables {
            let right = self.table_ref(table)?;
            result = Some(match result {
                None => right,
                Some(left) => self.cross(left, right)?,
            });
        }
        Ok(result.unwrap_or_else(|| (Logical::one_row(), Vec::new(), Vec::new())))
    }

    fn cross(&mut self, left: FromItem, right: FromItem) -> Result<FromItem> {
        let (left, mut fields, mut bases) = left;
        let (right, right_fields, right_bases) = right;
        check_unique(&fields, &right_fields)?;
        fields.extend(right_fields);
        bases.extend(right_bases);
        Ok((joined(JoinKind::Inner, Vec::new(), false, left, right), fields, bases))
    }

    fn table_ref(&mut self, table: &'a ast::TableRef) -> Result<FromItem> {
        match table {
            ast::TableRef::Table(factor) => self.table_factor(factor),
            ast::TableRef::Derived { query, alias, columns, lateral } => {
                if *lateral {
                    return Err(PlanError::not_supported("LATERAL"));
                }
                let bound = self.nested(|binder| binder.query(query))?;
                let fields = rename(bound.fields, alias, columns)?;
                Ok((bound.plan, fields, Vec::new()))
            }
            ast::TableRef::Join(join) => self.join(join),
            ast::TableRef::Group(tables) => self.from(tables),
        }
    }

    fn table_factor(&mut self, factor: &'a ast::TableFactor) -> Result<FromItem> {
        if !factor.partitions.is_empty() {
            return Err(PlanError::not_supported("PARTITION () selection"));
        }
        if factor.name.schema.is_none()
            && let Some(found) = self.cte(&factor.name.name, factor.alias.as_deref())?
        {
            if factor.as_of.is_some() {
                let reason = "a common table expression has no time of its own";
                return Err(PlanError::mysql(errno::ER_AS_OF, &[&reason]));
            }
            return Ok(found);
        }
        self.check_same_time(factor.as_of.is_some())?;
        let (db, table) =
            self.find_table(&factor.name, factor.alias.as_deref(), AccessKind::Select)?;
        let hints = index_hints(&table, &factor.index_hints)?;
        Ok(self.scan(db, table, factor.alias.as_deref(), hints))
    }

    /// A table without alias and hints.
    pub(super) fn table_by_name(&mut self, name: &'a ast::ObjectName) -> Result<FromItem> {
        if name.schema.is_none()
            && let Some(found) = self.cte(&name.name, None)?
        {
            return Ok(found);
        }
        self.check_same_time(false)?;
        let (db, table) = self.find_table(name, None, AccessKind::Select)?;
        Ok(self.scan(db, table, None, IndexHints::default()))
    }

    /// All tables of a statement are read at one time: either each of them names it, or none.
    /// Which time that is, and which schema goes with it, is settled before the statement is bound.
    fn check_same_time(&mut self, names_time: bool) -> Result<()> {
        if *self.names_time.get_or_insert(names_time) == names_time {
            return Ok(());
        }
        Err(PlanError::mysql(errno::ER_AS_OF, &[&"can not set different time in the as of"]))
    }

    /// A scan of all public columns.
    fn scan(
        &mut self,
        db: String,
        table: Arc<TableInfo>,
        alias: Option<&str>,
        hints: IndexHints,
    ) -> FromItem {
        let alias = alias.unwrap_or(&table.name).to_string();
        let (alias_name, db_name): (Arc<str>, Arc<str>) =
            (alias.as_str().into(), db.as_str().into());
        let org_table: Arc<str> = table.name.as_str().into();
        let mut fields = Vec::with_capacity(table.columns.len() + 1);
        let mut columns = Vec::with_capacity(table.columns.len() + 1);
        let mut numbers = vec![None; table.columns.len()];
        let mut add = |offset: Option<usize>, name: &str, ty: &FieldType, flags: u16, hidden| {
            let full = format!("{db}.{}.{name}", table.name).to_ascii_lowercase();
            let col = self.columns.add_named(ty.clone(), full);
            columns.push(ScanCol { col, offset });
            let name: Arc<str> = name.into();
            fields.push(Field {
                col,
                ty: ty.clone(),
                name: name.clone(),
                table: alias_name.clone(),
                db: db_name.clone(),
                org_name: name,
                org_table: org_table.clone(),
                org_db: db_name.clone(),
                flags,
                hidden,
                qualified_only: false,
            });
            col
        };
        for (offset, column) in table.writable_columns() {
            let flags = table.column_flags(offset);
            let number = add(Some(offset), &column.name, &column.ty, flags, column.hidden);
            numbers[offset] = Some(number);
        }
        let mut handle: Vec<usize> = match table.handle_column() {
            Some(offset) => numbers[offset].into_iter().collect(),
            None => table.common_handle_columns().iter().filter_map(|at| numbers[*at]).collect(),
        };
        if table.has_row_id() {
            let ty = FieldType::bigint().with_not_null();
            handle = vec![add(None, ROW_ID_NAME, &ty, ty.mysql_flags(), true)];
        }
        let base = BaseTable {
            db: db.clone(),
            table: table.clone(),
            alias: alias.clone(),
            columns: numbers,
            handle,
        };
        // Columns that are only written (an ADD COLUMN on its way) have no name yet.
        let named = |field: &Field| match table.find_column(&field.org_name) {
            Some(_) => true,
            None => &*field.org_name == ROW_ID_NAME,
        };
        fields.retain(named);
        let bases = if table.is_virtual { Vec::new() } else { vec![base] };
        let (conditions, join_hints) = (Vec::new(), JoinHints::default());
        let scan = LogicalScan { db, alias, table, columns, conditions, hints, join_hints };
        (Logical::Scan(Box::new(scan)), fields, bases)
    }

    fn join(&mut self, join: &'a ast::Join) -> Result<FromItem> {
        let reads = self.own_references();
        let (left, mut left_fields, mut bases) = self.table_ref(&join.left)?;
        let reads_left = self.own_references() != reads;
        let reads = self.own_references();
        let (right, mut right_fields, right_bases) = self.table_ref(&join.right)?;
        let reads_right = self.own_references() != reads;
        if join.kind == ast::JoinKind::Left && reads_right
            || join.kind == ast::JoinKind::Right && reads_left
        {
            return Err(self.forbidden_side());
        }
        check_unique(&left_fields, &right_fields)?;
        bases.extend(right_bases);
        let optional = |fields: &mut Vec<Field>| {
            fields.iter_mut().for_each(|field| field.ty.not_null = false);
        };
        match join.kind {
            ast::JoinKind::Left => optional(&mut right_fields),
            ast::JoinKind::Right => optional(&mut left_fields),
            ast::JoinKind::Inner | ast::JoinKind::Straight => {}
        }
        let (conditions, fields) = match &join.condition {
            JoinCondition::None => (Vec::new(), concat(left_fields, right_fields)),
            JoinCondition::On(condition) => {
                let fields = concat(left_fields, right_fields);
                let scope = Scope::of(fields.clone());
                let bound = self.with_scope(scope, |binder| {
                    binder.expr(condition, &mut ExprEnv::new("on clause"))
                })?;
                (bound.split_cnf(), fields)
            }
            JoinCondition::Using(names) => {
                self.using(names, left_fields, right_fields, join.kind)?
            }
            JoinCondition::Natural => {
                let names = common_names(&left_fields, &right_fields);
                self.using(&names, left_fields, right_fields, join.kind)?
            }
        };
        let straight = join.kind == ast::JoinKind::Straight;
        let plan = match join.kind {
            ast::JoinKind::Inner | ast::JoinKind::Straight => {
                joined(JoinKind::Inner, conditions, straight, left, right)
            }
            ast::JoinKind::Left => joined(JoinKind::LeftOuter, conditions, false, left, right),
            // Columns are numbered, so that a right join is a left join of the other.
            ast::JoinKind::Right => joined(JoinKind::LeftOuter, conditions, false, right, left),
        };
        Ok((plan, fields, bases))
    }

    /// USING and NATURAL: the named columns come first, once; each side keeps its own
    /// under its table's name.
    fn using(
        &mut self,
        names: &[String],
        mut left: Vec<Field>,
        mut right: Vec<Field>,
        kind: ast::JoinKind,
    ) -> Result<(Vec<Expr>, Vec<Field>)> {
        let mut conditions = Vec::with_capacity(names.len());
        let mut merged = Vec::with_capacity(names.len());
        for name in names {
            let column = ast::ColumnRef::bare(name.as_str());
            let side = |fields: &mut Vec<Field>| -> Result<Field> {
                let found = find_field(fields, &column, "from clause")?
                    .ok_or_else(|| PlanError::unknown_column(name, "from clause"))?
                    .clone();
                for field in fields.iter_mut().filter(|field| field.matches(&column)) {
                    field.qualified_only = true;
                }
                Ok(found)
            };
            let (l, r) = (side(&mut left)?, side(&mut right)?);
            conditions.push(self.call("=", vec![l.expr(), r.expr()])?);
            merged.push(if kind == ast::JoinKind::Right { r } else { l });
        }
        merged.extend(left);
        merged.extend(right);
        Ok((conditions, merged))
    }
}

fn joined(
    kind: JoinKind,
    conditions: Vec<Expr>,
    straight: bool,
    left: Logical,
    right: Logical,
) -> Logical {
    let in_keys = Vec::new();
    let join = LogicalJoin { kind, conditions, in_keys, mark: None, straight, left, right };
    Logical::Join(Box::new(join))
}

fn concat(mut left: Vec<Field>, right: Vec<Field>) -> Vec<Field> {
    left.extend(right);
    left
}

fn common_names(left: &[Field], right: &[Field]) -> Vec<String> {
    let visible = |field: &&Field| !field.hidden && !field.qualified_only;
    let in_right = |name: &str| {
        right.iter().filter(visible).any(|field| field.name.eq_ignore_ascii_case(name))
    };
    let names = left.iter().filter(visible).filter(|field| in_right(&field.name));
    names.map(|field| field.name.to_string()).collect()
}

/// Two tables of one FROM must differ in alias (or database).
fn check_unique(left: &[Field], right: &[Field]) -> Result<()> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for field in left {
        if !seen.contains(&(&*field.table, &*field.db)) {
            seen.push((&field.table, &field.db));
        }
    }
    for field in right {
        let twice = seen.iter().any(|(table, db)| {
            table.eq_ignore_ascii_case(&field.table) && db.eq_ignore_ascii_case(&field.db)
        });
        if twice {
            return Err(PlanError::mysql(errno::ER_NONUNIQ_TABLE, &[&field.table]));
        }
    }
    Ok(())
}

/// Columns of a derived table under its alias.
pub(super) fn rename(fields: Vec<Field>, alias: &str, columns: &[String]) -> Result<Vec<Field>> {
    if !columns.is_empty() && columns.len() != fields.len() {
        return Err(PlanError::mysql(errno::ER_VIEW_WRONG_LIST, &[]));
    }
    let alias: Arc<str> = alias.into();
    let mut renamed: Vec<Field> = Vec::with_capacity(fields.len());
    for (at, mut field) in fields.into_iter().enumerate() {
        if let Some(name) = columns.get(at) {
            field.name = name.as_str().into();
        }
        if renamed.iter().any(|other| other.name.eq_ignore_ascii_case(&field.name)) {
            return Err(PlanError::mysql(errno::ER_DUP_FIELDNAME, &[&field.name]));
        }
        field.table = alias.clone();
        field.db = "".into();
        field.hidden = false;
        field.qualified_only = false;
        renamed.push(field);
    }
    Ok(renamed)
}

/// USE, FORCE and IGNORE INDEX of a table. Hints for ORDER BY and GROUP BY alone are
/// taken for nothing.
fn index_hints(table: &TableInfo, hints: &[ast::IndexHint]) -> Result<IndexHints> {
    let mut result = IndexHints::default();
    for hint in hints {
        if !matches!(hint.scope, ast::IndexHintScope::All | ast::IndexHintScope::Join) {
            continue;
        }
        let mut named = Vec::with_capacity(hint.indexes.len());
        for name in &hint.indexes {
            let found =
                table.indices.iter().position(|index| index.name.eq_ignore_ascii_case(name));
            match found {
                Some(at) => named.push(at),
                None if name.eq_ignore_ascii_case(PRIMARY_NAME) && table.pk_is_handle => {}
                None => {
                    return Err(PlanError::mysql(
                        errno::ER_KEY_DOES_NOT_EXITS,
                        &[name, &table.name],
                    ));
                }
            }
        }
        let names_table = named.iter().any(|at| !table.has_entries(&table.indices[*at]));
        match hint.kind {
            IndexHintKind::Ignore => result.ignore.extend(named),
            kind => {
                result.force |= kind == IndexHintKind::Force;
                result.allow_table |= names_table;
                result.only.get_or_insert_with(Vec::new).extend(named);
            }
        }
    }
    Ok(result)
}
