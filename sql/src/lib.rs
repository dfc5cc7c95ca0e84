//! MySQL front end: protocol, sessions, catalog, statements, system tables.
