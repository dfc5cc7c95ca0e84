//! What a window is made of, as written: named windows and what they inherit.

use super::{WINDOWS_MAX, too_many_windows};
use cairn_parser::ast::{self, WindowRef, WindowSpec};
use cairn_types::errno;

use crate::error::{PlanError, Result};

/// Name of a window without one, in messages.
const UNNAMED: &str = "<unnamed window>";

/// A window with what it inherits.
#[derive(Clone, Copy)]
pub(super) struct Spec<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// PARTITION BY.
    pub partition_by: &'a [ast::Expr],
    /// ORDER BY.
    pub order_by: &'a [ast::OrderByItem],
    /// The frame, if one is written.
    pub frame: Option<&'a ast::WindowFrame>,
}

/// The named windows of a SELECT.
pub(super) struct Named<'a> {
    windows: &'a [ast::NamedWindow],
}

impl<'a> Named<'a> {
    /// Errors if a name is there twice, or a window inherits what it cannot.
    pub(super) fn new(windows: &'a [ast::NamedWindow]) -> Result<Named<'a>> {
        if windows.len() > WINDOWS_MAX {
            return Err(too_many_windows());
        }
        let named = Named { windows };
        for (at, window) in windows.iter().enumerate() {
            if windows[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&window.name)) {
                return Err(PlanError::mysql(errno::ER_WINDOW_DUPLICATE_NAME, &[&window.name]));
            }
            named.inherit(&window.name, &window.spec, 0)?;
        }
        Ok(named)
    }

    /// The window after OVER.
    pub(super) fn resolve(&self, over: &'a WindowRef) -> Result<Spec<'a>> {
        match over {
            WindowRef::Named(name) => {
                let window = self.find(name)?;
                self.inherit(&window.name, &window.spec, 0)
            }
            WindowRef::Inline(spec) => self.inherit(UNNAMED, spec, 0),
        }
    }

    fn find(&self, name: &str) -> Result<&'a ast::NamedWindow> {
        let found = self.windows.iter().find(|window| window.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| PlanError::mysql(errno::ER_WINDOW_NO_SUCH_WINDOW, &[&name]))
    }

    /// A window with what it takes from the one it names, `depth` names away from the first.
    fn inherit(&self, name: &'a str, spec: &'a WindowSpec, depth: usize) -> Result<Spec<'a>> {
        let own = Spec {
            name,
            partition_by: &spec.partition_by,
            order_by: &spec.order_by,
            frame: spec.frame.as_ref(),
        };
        let Some(base) = &spec.base else { return Ok(own) };
        // More names than there are windows: some come twice.
        if depth > self.windows.len() {
            return Err(PlanError::mysql(errno::ER_WINDOW_CIRCULARITY_IN_WINDOW_GRAPH, &[]));
        }
        let base = self.find(base)?;
        let parent = self.inherit(&base.name, &base.spec, depth + 1)?;
        if !own.partition_by.is_empty() {
            return Err(PlanError::mysql(errno::ER_WINDOW_NO_CHILD_PARTITIONING, &[]));
        }
        if parent.frame.is_some() {
            return Err(PlanError::mysql(errno::ER_WINDOW_NO_INHERIT_FRAME, &[&parent.name]));
        }
        if !own.order_by.is_empty() && !parent.order_by.is_empty() {
            let code = errno::ER_WINDOW_NO_REDEFINE_ORDER_BY;
            return Err(PlanError::mysql(code, &[&own.name, &parent.name]));
        }
        let order_by = if own.order_by.is_empty() { parent.order_by } else { own.order_by };
        Ok(Spec { partition_by: parent.partition_by, order_by, ..own })
    }
}
