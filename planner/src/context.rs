//! What planning needs to know besides the statement.

use std::sync::Arc;

use cairn_expr::EvalContext;
use cairn_parser::ast::VariableScope;
use cairn_types::{Datum, FieldType, MysqlError};

use crate::catalog::{Catalog, TableInfo};
use crate::statistics::TableStatistics;

/// System variables, as expressions read them.
pub trait SystemVariables: Send + Sync {
    /// Value and type of a variable in a scope; 1193 if there is none.
    fn system_variable(
        &self,
        scope: VariableScope,
        name: &str,
    ) -> Result<(Datum, FieldType), MysqlError>;
}

/// Where statistics come from.
pub trait Statistics: Send + Sync {
    /// What is known of a table; `None`: nothing, see [`crate::statistics::guess`] for what is
    /// assumed then. Asked for each table of a statement that is no point read, each time it is
    /// planned: it must be quick.
    fn table_statistics(&self, _table: &TableInfo) -> Option<Arc<TableStatistics>> {
        None
    }
}

/// No statistics: every table has the pseudo ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct PseudoStatistics;

impl Statistics for PseudoStatistics {}

/// Surroundings of one statement.
pub struct PlanContext<'a> {
    /// The schema.
    pub catalog: &'a dyn Catalog,
    /// The current database, if one is selected.
    pub current_db: Option<&'a str>,
    /// SQL mode, time zone, connection collation; used to fold constants.
    pub eval: &'a mut EvalContext,
    /// System variables.
    pub variables: &'a dyn SystemVariables,
    /// Statistics.
    pub statistics: &'a dyn Statistics,
    /// Types of the statement's `?` markers, in order. Markers beyond the list have
    /// the type of NULL (as when a statement is only prepared).
    pub param_types: &'a [FieldType],
    /// Settings of the optimiser.
    pub options: PlanOptions,
}

impl PlanContext<'_> {
    /// The same for a shorter time.
    pub(crate) fn reborrow(&mut self) -> PlanContext<'_> {
        PlanContext {
            catalog: self.catalog,
            current_db: self.current_db,
            eval: &mut *self.eval,
            variables: self.variables,
            statistics: self.statistics,
            param_types: self.param_types,
            options: self.options,
        }
    }
}

/// Settings of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanOptions {
    /// Let stores read rows for index entries, filter and aggregate them. Off:
    /// everything above the scans runs on the SQL node.
    pub push_down: bool,
    /// Rules that are switched off, as bits of [`crate::rules::Rule`].
    pub disabled_rules: u32,
    /// Bytes of a join's build side that may be sent to every store; 0: joins are not run there.
    pub broadcast_bytes_max: u64,
    /// Its rows.
    pub broadcast_rows_max: u64,
}

impl PlanOptions {
    /// Whether stores may run joins.
    pub fn broadcasts(&self) -> bool {
        self.push_down && self.broadcast_bytes_max > 0
    }
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions {
            push_down: true,
            disabled_rules: 0,
            broadcast_bytes_max: 8 << 20,
            broadcast_rows_max: 100_000,
        }
    }
}
