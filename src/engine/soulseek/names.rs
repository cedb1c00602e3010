//! Safe local names for what strangers call their files.
