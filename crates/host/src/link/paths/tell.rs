//! Owns what an operator hears of paths.

use crate::events::EventLog;
use protocol::paths::News;
use protocol::{HostName, Instant, VmName};
use serde_json::json;
use std::sync::Arc;

/// Tells what happens to the paths of one session.
pub struct Teller {
    /// Where.
    pub events: Arc<EventLog>,
    /// The VM.
    pub vm: VmName,
    /// The host at the other end.
    pub peer: HostName,
}

impl Teller {
    pub(super) fn tell(&self, news: News, address: &str, going_on: Option<&str>, now: Instant) {
        let peer = &self.peer;
        let goes_on = match going_on {
            Some(other) => format!("; going on over {other}"),
            None => "; no other link is heard".to_owned(),
        };
        let (event, silent, text) = match news {
            News::Silent(_, since) => {
                let ms = now.since(since).as_millis_f64();
                ("path_silent", Some(ms), format!("is silent for {ms:.0} ms{goes_on}"))
            }
            News::Ended(_) => ("path_lost", None, format!("ended{goes_on}")),
            News::Back(_) => ("path_back", None, "is back".to_owned()),
            // Of a silent one all was told.
            News::GiveUp(_) => return,
        };
        let what = json!({"event": event, "peer": peer, "address": address, "silent_ms": silent, "going_on": going_on});
        self.events.log(&self.vm, &what, format!("the link to host {peer} over {address} {text}"));
    }
}
