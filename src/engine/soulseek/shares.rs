//! Words of paths and queries, and how a query matches.
