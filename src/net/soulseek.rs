//! Connections to the Soulseek server and to users.
