//! Answers the web layer.
