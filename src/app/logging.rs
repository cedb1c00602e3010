//! Journal or stderr, and the tail for the page.
