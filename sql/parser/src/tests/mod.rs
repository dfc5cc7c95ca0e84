//! Tests of the whole parser.
