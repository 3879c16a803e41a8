//! Owns `undying host`: the agent's, or the witness's, life from its configuration to a signal.

use crate::failure::{Failure, Kind};
use host::agent::Agent;
use host::config::Config;
use host::control::server;
use host::witness::Witness;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: cranelift tells of each piece of machine code, whole.
const USUAL: &str = "info,cranelift_jit=warn";

/// Runs the agent until SIGTERM or SIGINT. Log lines go to standard error; `RUST_LOG` sets how many.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let config =
        config.ok_or_else(|| Failure::new(Kind::Invalid, "name the agent's configuration: --config FILE"))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(USUAL));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let config = Config::load(config).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    // Before anything starts: a signal must not find the default action once there are VMs.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::failed)?;
    let (name, loss, server) = match config {
        Config::Host(config) => {
            let (name, socket) = (config.name.clone(), config.api_socket.clone());
            let agent = Agent::start(*config).map_err(Failure::failed)?;
            (name, "its VMs end with it", server::serve(&socket, Arc::new(agent)))
        }
        Config::Witness(config) => {
            let (name, socket) = (config.name.clone(), config.api_socket.clone());
            let witness = Witness::start(config).map_err(Failure::failed)?;
            (name, "nobody decides until it is back", server::serve(&socket, Arc::new(witness)))
        }
    };
    let server = server.map_err(Failure::failed)?;
    tracing::info!("host {name} is ready; its API is at {}", server.path().display());
    let signal = signals.forever().next();
    tracing::info!("host {name} ends on signal {}; {loss}", signal.unwrap_or_default());
    server.stop();
    Ok(())
}
