//! Parents and children of the distributed search network.
