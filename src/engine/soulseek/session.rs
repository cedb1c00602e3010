//! Login, relogin with backoff, keep-alive.
