//! MySQL values, field types, codecs, rows, chunks and error codes.
