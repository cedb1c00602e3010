//! A music appliance for small boxes.
//!
//! Layers, from the bottom: [`model`] holds plain words; [`engine`] takes every decision, purely; the shells `net`,
//! `disk` and `store` do input and output and know nothing of one another; `web` shows [`model::view`] and knows
//! nothing else; `app` wires everything together and owns the one clock. Start reading at `engine::soulseek::io`.

pub mod app;
pub mod disk;
pub mod engine;
pub mod model;
pub mod net;
pub mod probe;
pub mod store;
pub mod web;
