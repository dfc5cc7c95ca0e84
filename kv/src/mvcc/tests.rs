//! Tests of the multi-version layer.
