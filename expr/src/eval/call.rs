//! A scalar call's view of its arguments: each is converted when it is read, by
//! the rules of MySQL's implicit conversion.

use std::borrow::Cow;

use cairn_types::{Collation, Datum, Decimal, Duration, FieldType, Json, Time};

use super::{EvalCache, convert};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::func::Func;

/// One call: its arguments' values with their types.
pub(crate) struct Call<'a> {
    pub func: Func,
    pub exprs: &'a [Expr],
    pub values: &'a [Datum],
    pub ty: &'a FieldType,
    pub cache: &'a EvalCache,
    pub node: &'a Expr,
}

impl<'a> Call<'a> {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn value(&self, at: usize) -> &'a Datum {
        &self.values[at]
    }

    pub fn arg_ty(&self, at: usize) -> &'a FieldType {
        self.exprs[at].ty()
    }

    pub fn is_null(&self, at: usize) -> bool {
        self.values[at].is_null()
    }

    pub fn any_null(&self) -> bool {
        self.values.iter().any(Datum::is_null)
    }

    /// Whether the argument is a byte string, whose characters are its bytes.
    pub fn is_binary(&self, at: usize) -> bool {
        self.arg_ty(at).is_binary_string()
    }

    /// Collation of the result; for functions that search, the one they use.
    pub fn collation(&self) -> Collation {
        self.ty.collation
    }

    /// The argument as text or bytes.
    pub fn bytes(&self, at: usize) -> Cow<'a, [u8]> {
        convert::to_bytes(&self.values[at], self.arg_ty(at))
    }

    /// The argument as UTF-8 text; what is no UTF-8 is replaced.
    pub fn text(&self, at: usize) -> Cow<'a, str> {
        match self.bytes(at) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            }),
        }
    }

    /// The argument as a signed integer; larger unsigned values are clamped.
    pub fn int(&self, at: usize, ctx: &mut EvalContext) -> Result<i64> {
        convert::to_int(&self.values[at], self.arg_ty(at), ctx)
    }

    /// The argument's 64 bits, as bit operations see it.
    pub fn bits(&self, at: usize, ctx: &mut EvalContext) -> Result<u64> {
        convert::to_bits(&self.values[at], self.arg_ty(at), ctx)
    }

    pub fn real(&self, at: usize, ctx: &mut EvalContext) -> Result<f64> {
        convert::to_real(&self.values[at], self.arg_ty(at), ctx)
    }

    pub fn decimal(&self, at: usize, ctx: &mut EvalContext) -> Result<Decimal> {
        convert::to_decimal(&self.values[at], self.arg_ty(at), ctx)
    }

    /// The argument as a point in time; `None` (with a warning) if it is none.
    pub fn time(&self, at: usize, ctx: &mut EvalContext) -> Result<Option<Time>> {
        convert::to_time(&self.values[at], self.arg_ty(at), ctx)
    }

    pub fn duration(&self, at: usize, ctx: &mut EvalContext) -> Result<Option<Duration>> {
        convert::to_duration(&self.values[at], self.arg_ty(at), ctx)
    }

    pub fn truth(&self, at: usize, ctx: &mut EvalContext) -> Result<Option<bool>> {
        convert::truth(&self.values[at], self.arg_ty(at), ctx)
    }

    /// The argument as a JSON document: text is parsed.
    pub fn json_document(&self, at: usize) -> Result<Json> {
        convert::to_json_document(&self.values[at], self.arg_ty(at), at + 1, self.func.name())
    }

    /// The argument as a JSON value: text is a JSON string.
    pub fn json_value(&self, at: usize) -> Result<Json> {
        convert::to_json_value(&self.values[at], self.exprs.get(at))
    }

    /// A result of `text` bytes: NULL with warning 1301 over `max_allowed_packet`.
    pub fn checked_len(&self, bytes: u64, ctx: &mut EvalContext) -> bool {
        if bytes <= ctx.max_allowed_packet {
            return true;
        }
        let max = ctx.max_allowed_packet;
        ctx.warn_args(
            cairn_types::errno::ER_WARN_ALLOWED_PACKET_OVERFLOWED,
            &[&self.func.name(), &max],
        );
        false
    }

    /// 1690 with this call's text.
    pub fn out_of_range(&self, type_name: &str) -> ExprError {
        ExprError::out_of_range(type_name, &self.node.fmt_sql(&crate::display::default_name))
    }
}
