//! Common table expressions.
//!
//! A name of WITH is bound anew at each use, unless it groups, unites, orders or the like: then its readers
//! share one query ([`Logical::Shared`]). One that reads itself is a union whose first parts, the
//! seed, do not; the others are run over the rows of the round before until a round yields nothing. The
//! seed's columns give the types.
//!
//! Source: MySQL 8.0 manual, "WITH (Common Table Expressions)".

use std::rc::Rc;
use std::sync::Arc;

use cairn_parser::ast::{self, QueryBody, SetOperator};
use cairn_types::{FieldType, errno};

use super::aggregate::{has_aggregate, has_window};
use super::from::{FromItem, rename};
use super::query::plain_field;
use super::{Binder, BoundQuery, Field};
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical, LogicalRecursive, LogicalShared};

/// Most uses of names in one statement, each counted with what the query it shares is made of: names that use
/// one another twice double what there is to plan with every name.
const USES_MAX: usize = 4096;

/// A name of WITH that can be used, and those it may use itself.
#[derive(Clone)]
pub(super) struct CteBinding<'a> {
    cte: &'a ast::Cte,
    visible: usize,
    recursive: bool,
    /// Its query, if its readers share it.
    shared: Option<Rc<SharedQuery>>,
}

/// A query that its readers share.
struct SharedQuery {
    id: usize,
    plan: Logical,
    fields: Vec<Field>,
    /// Nodes of the plan.
    nodes: usize,
}

impl SharedQuery {
    /// The query with these columns for a reader's.
    fn read_as(&self, fields: Vec<Field>) -> BoundQuery {
        let plan = Logical::Shared(Box::new(LogicalShared {
            id: self.id,
            columns: fields.iter().map(|field| field.col).collect(),
            own: self.fields.iter().map(|field| field.col).collect(),
            input: self.plan.clone(),
        }));
        BoundQuery { plan, fields }
    }
}

/// A name of WITH whose query is being bound.
pub(super) struct OpenCte<'a> {
    cte: &'a ast::Cte,
    /// Its query is a union.
    is_union: bool,
    /// Its columns, once its seed is known.
    columns: Option<Vec<(Arc<str>, FieldType)>>,
    /// Number of it and of the rows that it reads of itself.
    work_table: usize,
    /// How deep in queries it may be read.
    depth: usize,
    /// How often the part that is being bound reads it.
    references: usize,
}

impl<'a> Binder<'a> {
    /// The names of a WITH can be used from now on, until [`Binder::forget_ctes`].
    pub(super) fn push_ctes(&mut self, with: Option<&'a ast::With>) -> usize {
        let before = self.ctes.len();
        for cte in with.iter().flat_map(|with| &with.ctes) {
            let (visible, recursive) = (self.ctes.len(), with.is_some_and(|with| with.recursive));
            self.ctes.push(CteBinding { cte, visible, recursive, shared: None });
        }
        before
    }

    /// Only the first `count` names can be used.
    pub(super) fn forget_ctes(&mut self, count: usize) {
        self.ctes.truncate(count);
    }

    /// How often the query that is being bound has read the name it defines.
    pub(super) fn own_references(&self) -> usize {
        self.open_ctes.last().map_or(0, |open| open.references)
    }

    /// Error 3576: the name that is being defined may be read on one side of a join only.
    pub(super) fn forbidden_side(&self) -> PlanError {
        let name = self.open_ctes.last().map_or("", |open| open.cte.name.as_str());
        PlanError::mysql(errno::ER_CTE_RECURSIVE_FORBIDDEN_JOIN_ORDER, &[&name])
    }

    /// A name of WITH, if it is one.
    pub(super) fn cte(&mut self, name: &str, alias: Option<&str>) -> Result<Option<FromItem>> {
        let found =
            self.ctes.iter().rposition(|binding| binding.cte.name.eq_ignore_ascii_case(name));
        let Some(at) = found else { return Ok(None) };
        let cte = self.ctes[at].cte;
        let bound = match self.open_ctes.iter().position(|open| std::ptr::eq(open.cte, cte)) {
            Some(place) => self.own_rows(place)?,
            None => self.reader(at)?,
        };
        let fields = rename(bound.fields, alias.unwrap_or(&cte.name), &cte.columns)?;
        Ok(Some((bound.plan, fields, Vec::new())))
    }

    /// One more reader of a name.
    fn reader(&mut self, at: usize) -> Result<BoundQuery> {
        let shared = self.ctes[at].shared.clone();
        self.cte_uses += shared.as_ref().map_or(1, |query| query.nodes);
        if self.cte_uses > USES_MAX {
            return Err(PlanError::mysql(errno::ER_TOO_MANY_TABLES, &[&USES_MAX]));
        }
        if let Some(query) = shared {
            let mut fields = Vec::with_capacity(query.fields.len());
            for field in &query.fields {
                fields.push(Field { col: self.new_column(field.ty.clone()), ..field.clone() });
            }
            return Ok(query.read_as(fields));
        }
        let BoundQuery { plan, fields } = self.cte_query(at)?;
        if plan.is_plain() {
            return Ok(BoundQuery { plan, fields });
        }
        self.work_tables += 1;
        let nodes = plan.node_count();
        let query = Rc::new(SharedQuery { id: self.work_tables, plan, fields, nodes });
        self.ctes[at].shared = Some(query.clone());
        // The first reader, which may stay the only one, keeps the query's columns.
        Ok(query.read_as(query.fields.clone()))
    }

    fn cte_query(&mut self, at: usize) -> Result<BoundQuery> {
        let binding = self.ctes[at].clone();
        let scopes = std::mem::take(&mut self.scopes);
        // The query sees the names before it, and itself if it may be recursive.
        let visible = binding.visible + usize::from(binding.recursive);
        let hidden = self.ctes.split_off(visible);
        let query = &*binding.cte.query;
        let is_union = matches!(query.body, QueryBody::SetOperation { op: SetOperator::Union, .. });
        self.work_tables += 1;
        self.open_ctes.push(OpenCte {
            cte: binding.cte,
            is_union,
            columns: None,
            work_table: self.work_tables,
            depth: 0,
            references: 0,
        });
        let bound = self.nested(|binder| match binding.recursive && is_union {
            true => binder.recursive_query(query, &binding.cte.name),
            false => binder.query(query),
        });
        self.open_ctes.pop();
        self.ctes.truncate(visible);
        self.ctes.extend(hidden);
        self.scopes = scopes;
        bound
    }

    /// The rows of the last round, read in a query that is being defined.
    fn own_rows(&mut self, place: usize) -> Result<BoundQuery> {
        let is_last = place + 1 == self.open_ctes.len();
        let depth = self.depth;
        let open = &mut self.open_ctes[place];
        let name = &open.cte.name;
        let Some(columns) = open.columns.clone() else {
            let code = match open.is_union {
                true => errno::ER_CTE_RECURSIVE_REQUIRES_NONRECURSIVE_FIRST,
                false => errno::ER_CTE_RECURSIVE_REQUIRES_UNION,
            };
            return Err(PlanError::mysql(code, &[name]));
        };
        if !is_last || depth != open.depth || open.references > 0 {
            let code = errno::ER_CTE_RECURSIVE_REQUIRES_SINGLE_REFERENCE;
            return Err(PlanError::mysql(code, &[name]));
        }
        open.references += 1;
        let id = open.work_table;
        let fields = self.new_fields(columns);
        let columns = fields.iter().map(|field| field.col).collect();
        Ok(BoundQuery { plan: Logical::WorkTable { id, columns }, fields })
    }

    fn new_fields(&mut self, columns: Vec<(Arc<str>, FieldType)>) -> Vec<Field> {
        let field =
            |(name, ty): (Arc<str>, FieldType)| plain_field(self.new_column(ty.clone()), ty, name);
        columns.into_iter().map(field).collect()
    }

    /// A union that may read itself.
    fn recursive_query(&mut self, query: &'a ast::Query, name: &str) -> Result<BoundQuery> {
        let before = self.push_ctes(query.with.as_ref());
        let parts = super::query::union_parts(&query.body);
        let depth = self.depth + 1;
        let mut bound: Vec<(BoundQuery, bool)> = Vec::with_capacity(parts.len());
        let mut first = None;
        for (at, (part, all)) in parts.iter().enumerate() {
            if at > 0 && first.is_none() {
                let columns = self.seed_columns(&bound)?;
                self.open_cte()?.columns = Some(columns);
            }
            let open = self.open_cte()?;
            (open.depth, open.references) = (depth, 0);
            let query = self.body(part)?;
            match (self.own_references(), first) {
                (0, Some(_)) => {
                    let code = errno::ER_CTE_RECURSIVE_REQUIRES_NONRECURSIVE_FIRST;
                    return Err(PlanError::mysql(code, &[&name]));
                }
                (0, None) => {}
                (_, found) => {
                    check_block(part, name)?;
                    first = found.or(Some(at));
                }
            }
            bound.push((query, *all));
        }
        let result = match first {
            None => {
                let bound = self.combine(bound)?;
                self.ordered_and_limited(bound, query)
            }
            Some(first) => self.recursive_union(bound, first, query),
        };
        self.forget_ctes(before);
        result
    }

    fn open_cte(&mut self) -> Result<&mut OpenCte<'a>> {
        self.open_ctes.last_mut().ok_or_else(|| PlanError::internal("no name is being defined"))
    }

    /// Names and types of a recursive table: those of its seed, all of which may be NULL.
    fn seed_columns(&mut self, seed: &[(BoundQuery, bool)]) -> Result<Vec<(Arc<str>, FieldType)>> {
        let queries: Vec<&BoundQuery> = seed.iter().map(|(query, _)| query).collect();
        let types = self.common_types(&queries)?;
        let Some((first, _)) = seed.first() else { return Ok(Vec::new()) };
        let nullable = |ty: FieldType| match ty.code {
            // Nothing but NULL and the empty string fits.
            cairn_types::TypeCode::Null => FieldType::varbinary(0),
            _ => FieldType { not_null: false, ..ty },
        };
        let names = first.fields.iter().map(|field| field.name.clone());
        Ok(names.zip(types.into_iter().map(nullable)).collect())
    }

    fn recursive_union(
        &mut self,
        mut bound: Vec<(BoundQuery, bool)>,
        first: usize,
        query: &'a ast::Query,
    ) -> Result<BoundQuery> {
        if !query.order_by.is_empty() {
            let what = "ORDER BY over UNION in recursive Common Table Expression";
            return Err(PlanError::not_supported(what));
        }
        let recursive = bound.split_off(first);
        let distinct = recursive.iter().rposition(|(_, all)| !*all);
        if distinct.is_some_and(|at| at + 1 < recursive.len()) {
            let what = "recursive query blocks with UNION DISTINCT then UNION ALL, in recursive \
                        Common Table Expression";
            return Err(PlanError::not_supported(what));
        }
        let columns = self.seed_columns(&bound)?;
        let seed = self.combine(bound)?;
        let mut exprs = Vec::with_capacity(columns.len());
        for (field, (_, ty)) in seed.fields.iter().zip(&columns) {
            let same = FieldType { not_null: false, ..field.ty.clone() } == *ty;
            exprs.push(match same {
                true => (field.col, field.expr()),
                false => {
                    let cast = cairn_expr::build_cast(field.expr(), ty.clone(), self.ctx.eval)?;
                    (self.new_column(ty.clone()), cast)
                }
            });
        }
        let own: Vec<Col> = exprs.iter().map(|(col, _)| *col).collect();
        let seed = (seed.plan.project(exprs), own);
        let mut parts = Vec::with_capacity(recursive.len());
        for (part, _) in recursive {
            if part.fields.len() != columns.len() {
                let code = errno::ER_WRONG_NUMBER_OF_COLUMNS_IN_SELECT;
                return Err(PlanError::mysql(code, &[]));
            }
            let own: Vec<Col> = part.fields.iter().map(|field| field.col).collect();
            parts.push((part.plan, own));
        }
        let id = self.open_cte()?.work_table;
        let fields = self.new_fields(columns);
        let union = LogicalRecursive {
            id,
            columns: fields.iter().map(|field| field.col).collect(),
            names: fields.iter().map(|field| field.name.clone()).collect(),
            distinct: distinct.is_some(),
            seed,
            parts,
        };
        let plan = Logical::Recursive(Box::new(union));
        self.ordered_and_limited(BoundQuery { plan, fields }, query)
    }
}

/// What a query that reads the table it defines may not do.
fn check_block(part: &QueryBody, name: &str) -> Result<()> {
    let ordered = || {
        let what = "ORDER BY / LIMIT / SELECT DISTINCT in recursive query block of Common Table \
                    Expression";
        Err(PlanError::not_supported(what))
    };
    let select = match part {
        QueryBody::Select(select) => select,
        QueryBody::Nested(query) => {
            if !query.order_by.is_empty() || query.limit.is_some() {
                return ordered();
            }
            return check_block(&query.body, name);
        }
        _ => return Ok(()),
    };
    if select.modifiers.distinct {
        return ordered();
    }
    let items = select.items.iter().filter_map(|item| match item {
        ast::SelectItem::Expr { expr, .. } => Some(expr),
        _ => None,
    });
    let mut exprs = items.chain(&select.having);
    let groups = !select.group_by.is_empty() || !select.windows.is_empty();
    if groups || exprs.any(|expr| has_aggregate(expr) || has_window(expr)) {
        return Err(PlanError::mysql(errno::ER_CTE_RECURSIVE_FORBIDS_AGGREGATION, &[&name]));
    }
    Ok(())
}
