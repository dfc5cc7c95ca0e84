//! Binder, logical rules, physical plans, plan cache and EXPLAIN.
