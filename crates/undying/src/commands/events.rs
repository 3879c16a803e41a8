//! Owns `undying events`.

use crate::cli::{Cli, Output};
use crate::failure::Failure;
use crate::{out, view};
use api::client::Client;
use api::types::EventRecord;

/// Shows events, and with `follow` those to come. JSON is one object a line, as the agent's log has it.
pub fn run(cli: &Cli, follow: bool, after: u64) -> Result<(), Failure> {
    let client = Client::new(&cli.socket)?;
    let show = |event: &EventRecord| match cli.output {
        Output::Text => out::line(&view::event(event)),
        Output::Json => out::json_line(event),
    };
    if follow {
        for event in client.follow(after)? {
            show(&event?)?;
        }
        return Ok(());
    }
    client.events(after)?.iter().try_for_each(show)
}
