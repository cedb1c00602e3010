//! Downloads that are not over.
