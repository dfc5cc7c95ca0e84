//! `GET_LOCK` and its kin: they wait, so no expression can compute them.
//!
//! Each call is a [`Subplan`](crate::plan::Subplan) whose only row holds the arguments; who runs
//! the plan does what is asked and puts the answer into the slot that stands for the call. So a
//! call is made once for a statement, before its rows are read, and cannot depend on them.
//!
//! Source: MySQL 8.0 manual, 14.14 "Locking Functions".

use cairn_parser::ast;
use cairn_types::{Datum, FieldType, errno};

use super::{Binder, BoundSubplan, ExprEnv};
use crate::error::{PlanError, Result};
use crate::logical::Logical;
use crate::plan::{NamedLockCall, SubplanKind};
use cairn_expr::Expr;

/// What a function does with a named lock, and its number of arguments.
fn call_of(name: &str) -> Option<(NamedLockCall, usize)> {
    Some(match name {
        "get_lock" => (NamedLockCall::Get, 2),
        "release_lock" => (NamedLockCall::Release, 1),
        "is_free_lock" => (NamedLockCall::IsFree, 1),
        "is_used_lock" => (NamedLockCall::IsUsed, 1),
        "release_all_locks" => (NamedLockCall::ReleaseAll, 0),
        _ => return None,
    })
}

impl<'a> Binder<'a> {
    /// The answer of a locking function; `None` for other functions.
    pub(super) fn named_lock(&mut self, call: &'a ast::FunctionCall) -> Result<Option<Expr>> {
        let Some((kind, args_count)) = call_of(&call.name) else { return Ok(None) };
        if call.args.len() != args_count {
            let name = call.name.to_ascii_uppercase();
            return Err(PlanError::mysql(errno::ER_WRONG_PARAMCOUNT_TO_NATIVE_FCT, &[&name]));
        }
        let mut plan = Logical::one_row();
        let mut projected = Vec::with_capacity(args_count);
        for (position, arg) in call.args.iter().enumerate() {
            let mut env = ExprEnv::over("field list", &mut plan);
            let arg = self.expr(arg, &mut env)?;
            // The name as text, the time as a number.
            let arg = match position {
                0 => self.call("concat", vec![arg])?,
                _ => self.call("+", vec![arg, Expr::constant(Datum::Double(0.0))])?,
            };
            projected.push((self.new_column(arg.ty().clone()), arg));
        }
        let columns = projected.iter().map(|(col, _)| *col).collect();
        let plan = plan.project(projected);
        if !plan.free_columns().is_empty() {
            return Err(PlanError::not_supported("locking functions of columns"));
        }
        let slot = self.slot_count;
        self.slot_count += 1;
        let kind = SubplanKind::NamedLock(kind);
        self.subplans.push(BoundSubplan { plan, columns, kind, slot });
        Ok(Some(Expr::param(slot, FieldType::bigint())))
    }
}
