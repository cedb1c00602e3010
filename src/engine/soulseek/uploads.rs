//! Uploads that are not over.
