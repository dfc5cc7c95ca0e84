//! Vectorised operators over row sources, shared by the SQL tier and the stores.
