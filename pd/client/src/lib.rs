//! The client of the placement driver: batched timestamps, ids, routes.
