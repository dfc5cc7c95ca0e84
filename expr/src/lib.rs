//! Scalar and aggregate functions over chunks, type inference, wire form of expressions.
