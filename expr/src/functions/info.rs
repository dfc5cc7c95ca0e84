//! What functions tell of the session and the server, and user variables.

use cairn_types::Datum;

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;
use crate::infer::collate::coercibility;

/// Most evaluations of one BENCHMARK(): beyond it a statement would hold its
/// thread for minutes.
const BENCHMARK_MAX: i64 = 100_000_000;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let info = std::sync::Arc::clone(&ctx.info);
    Ok(match call.func {
        Func::Version => Datum::from(info.version.as_str()),
        Func::TidbVersion => Datum::from(info.build.as_str()),
        Func::Database => info.database.as_deref().into(),
        Func::User => Datum::from(info.user.as_str()),
        Func::CurrentUser => Datum::from(info.current_user.as_str()),
        Func::CurrentRole => {
            let role = info.current_role.as_str();
            Datum::from(if role.is_empty() { "NONE" } else { role })
        }
        Func::ConnectionId => Datum::UInt(info.connection_id),
        Func::RowCount => Datum::Int(ctx.counters.row_count),
        Func::FoundRows => Datum::UInt(ctx.counters.found_rows),
        Func::LastInsertId => last_insert_id(call, ctx)?,
        Func::Charset => Datum::from(collation_name(call).0),
        Func::Collation => Datum::from(collation_name(call).1),
        Func::Coercibility => Datum::Int(i64::from(coercibility(&call.exprs[0]))),
        Func::Sleep => sleep(call, ctx)?,
        // The planner gives the expression as an argument, evaluated once here.
        Func::Benchmark => match call.int(0, ctx)? {
            0..=BENCHMARK_MAX => Datum::Int(0),
            _ => Datum::Null,
        },
        Func::GetUserVar => {
            let name = call.text(0).to_lowercase();
            ctx.session.user_var(&name).map(|(value, _)| value).unwrap_or_default()
        }
        _ => {
            let name = call.text(0).to_lowercase();
            ctx.session.set_user_var(&name, call.value(1), call.arg_ty(1));
            call.value(1).clone()
        }
    })
}

/// LAST_INSERT_ID(expr) remembers its argument.
fn last_insert_id(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.len() == 0 {
        return Ok(Datum::UInt(ctx.counters.last_insert_id));
    }
    if call.is_null(0) {
        ctx.session.set_last_insert_id(0);
        return Ok(Datum::Null);
    }
    let id = call.bits(0, ctx)?;
    ctx.session.set_last_insert_id(id);
    Ok(Datum::UInt(id))
}

fn collation_name(call: &Call<'_>) -> (&'static str, &'static str) {
    let ty = call.arg_ty(0);
    let is_text = ty.is_string() || ty.is_enum_or_set();
    let collation = if is_text { ty.collation } else { cairn_types::Collation::BINARY };
    (collation.charset().name(), collation.name())
}

/// 0, or 1 if it was interrupted.
fn sleep(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let seconds = if call.is_null(0) { -1.0 } else { call.real(0, ctx)? };
    if seconds < 0.0 {
        if ctx.sql_mode.is_strict() {
            return Err(crate::ExprError::wrong_arguments("sleep."));
        }
        ctx.warn_args(cairn_types::errno::ER_WRONG_ARGUMENTS, &[&"sleep."]);
        return Ok(Datum::Int(0));
    }
    Ok(Datum::bool(ctx.session.sleep(seconds)))
}
