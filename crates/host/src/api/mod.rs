//! Owns the agent's local API: HTTP and JSON over a unix socket that only root may open.

pub mod types;
