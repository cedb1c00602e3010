//! The life of one transfer, as a table of transitions.
