//! Who is connected to whom, and how a message reaches a user.
