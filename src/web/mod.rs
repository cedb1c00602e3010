//! The page and the API: shows [`crate::model::view`] and knows nothing else of the program.
//!
//! [`desk`] is the counter between the web layer and the rest: questions go out, answers come back. [`server`] owns
//! sockets, deadlines and permits; [`guard`] stands before every route and decides who may pass; [`auth`] keeps the
//! password, sessions, tokens and keys; [`routes`] is the one table of what there is. `pages` answers people, `api`
//! answers programs. What a request does to the world is decided by whoever takes the [`desk::Ask`]s.

pub mod api;
pub mod auth;
mod backoff;
mod badges;
mod browse;
mod counts;
pub mod desk;
pub mod guard;
mod info;
mod pages;
pub(crate) mod password;
pub mod rescue;
pub mod routes;
mod seats;
pub mod server;
pub mod settings;
mod show;
mod stall;
mod token;
pub mod upload;

pub use auth::Auth;
pub use desk::{Ask, Desk};
pub use guard::{Access, By, Visit};
pub use server::{Bound, Server, StartError, Web};
pub use settings::{ApiKey, Cidr, PasswordCost, Role, WebSettings};
