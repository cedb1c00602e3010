//! Restarts failed tasks, stops them in order.
