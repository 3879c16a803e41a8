//! Owns `undying vm migrate`: asks, waits with progress, and shows what it came to.

use crate::cli::{Cli, Output};
use crate::failure::{Failure, Kind};
use crate::migration::MigrateArgs;
use crate::out;
use crate::wait::{self, Goal};
use api::client::Client;

/// Carries it out.
pub fn run(cli: &Cli, client: &Client, args: &MigrateArgs) -> Result<(), Failure> {
    let name = &args.name;
    if args.cancel {
        client.cancel_migration(name)?;
        return super::vm::done(cli, name, "cancel_migration", "stays here");
    }
    let request = args.request().ok_or_else(|| Failure::new(Kind::Invalid, "migrate it to which host?"))?;
    let log_end = wait::log_end(client)?;
    client.migrate(name, &request)?;
    if args.no_wait {
        return super::vm::done(cli, name, "migrate_accepted", "is being migrated");
    }
    wait::wait(client, name, Goal::Migrated, log_end)?;
    let events = client.events(log_end)?;
    let told = events
        .iter()
        .rev()
        .find(|event| event.vm.as_ref() == Some(name) && event.what["event"] == "migrated");
    match (cli.output, told) {
        (Output::Json, told) => {
            let mut value = told.map_or(serde_json::json!({}), |event| event.what.clone());
            value["vm"] = serde_json::json!(name);
            value["done"] = serde_json::json!("migrate");
            value["to"] = serde_json::json!(request.to);
            out::json(&value)
        }
        (Output::Text, told) => {
            let rounds = told.and_then(|event| event.what["rounds"].as_u64()).unwrap_or(0);
            let total_ms = told.and_then(|event| event.what["total_ms"].as_u64()).unwrap_or(0);
            out::line(&format!(
                "VM {name} runs at host {} now, after {rounds} rounds and {:.1} s",
                request.to,
                total_ms as f64 / 1e3
            ))
        }
    }
}
