//! Upload slots, place in queue, fairness between users.
