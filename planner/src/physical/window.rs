//! Window functions: on the SQL node, over rows that the node below has sorted.

use cairn_executor::plan::{
    FrameBound, FrameOffset, WindowDesc, WindowFrame, WindowFunc, WindowFuncDesc,
};
use cairn_expr::Expr;

use super::{Physical, Root};
use crate::error::Result;
use crate::logical::{Col, LogicalWindow};
use crate::plan::PhysicalOp;

impl Physical<'_> {
    pub(super) fn window(&mut self, window: &LogicalWindow) -> Result<Root> {
        let root = self.root(&window.input)?;
        let layout = &root.layout;
        let frame = self.frame(&window.frame, layout)?;
        let mut functions = Vec::with_capacity(window.functions.len());
        for (col, func) in &window.functions {
            let func = self.window_func(func, layout)?;
            functions.push(WindowFuncDesc { func, ty: self.columns.ty(*col).clone() });
        }
        let desc = WindowDesc {
            name: window.name.clone(),
            partition_by: self.resolve_all(&window.partition_by, layout)?,
            order_by: self.sort_items(&window.order_by, layout)?,
            frame,
            functions,
        };
        let mut layout: Vec<Col> = root.layout;
        layout.extend(window.functions.iter().map(|(col, _)| *col));
        let (schema, rows) = (self.schema(&layout), root.estimate.rows);
        let plan = self.node(PhysicalOp::Window(Box::new(desc)), vec![root.plan], rows, schema);
        Ok(Root { plan, layout, ordered: false, estimate: root.estimate })
    }

    fn frame(&self, frame: &WindowFrame, layout: &[Col]) -> Result<WindowFrame> {
        let optional =
            |expr: &Option<Expr>| expr.as_ref().map(|expr| self.resolve(expr, layout)).transpose();
        let bound = |bound: &FrameBound| -> Result<FrameBound> {
            let FrameBound::Offset(offset) = bound else { return Ok(bound.clone()) };
            let value = optional(&offset.value)?;
            Ok(FrameBound::Offset(FrameOffset { value, ..offset.clone() }))
        };
        let (start, end) = (bound(&frame.start)?, bound(&frame.end)?);
        Ok(WindowFrame { unit: frame.unit, start, end, key: optional(&frame.key)? })
    }

    fn window_func(&self, func: &WindowFunc, layout: &[Col]) -> Result<WindowFunc> {
        let mut func = func.clone();
        for arg in func.args_mut() {
            *arg = self.resolve(arg, layout)?;
        }
        Ok(func)
    }
}
