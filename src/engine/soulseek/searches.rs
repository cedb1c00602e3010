//! Our searches, wishes, and answers to the searches of others.
