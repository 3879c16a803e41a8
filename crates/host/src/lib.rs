//! The engine and the agent: one loop per VM that selects an event, hands it to `protocol` and carries out
//! the actions that come back.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
