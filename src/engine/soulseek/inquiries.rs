//! Questions about users: browse, folder, info, status, endpoint.
