//! The twins against the engines they stand for.
