//! Failovers of a Redis under load: whoever dies, the clients keep their connections and lose no acknowledged write.

use crate::kit::{Loaded, possible};
use lab::cluster::VmShape;

#[test]
fn the_primary_host_dies() {
    if !possible() {
        return;
    }
    let loaded = Loaded::start("kill", VmShape::default());
    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    loaded.runs_at("beta");
    loaded.verdict();
}
