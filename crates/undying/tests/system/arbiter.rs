//! An arbiter that cannot be reached when it is needed: nobody goes on, and all heals by itself when it is back.

use crate::kit::{Loaded, Setup, look, possible};
use host::api::types::Role;
use lab::topology::Link;
use std::path::PathBuf;

/// The arbiter's directory, away.
struct Away {
    place: PathBuf,
    away: PathBuf,
}

impl Away {
    fn take(loaded: &Loaded) -> Self {
        let place = loaded.cluster.arbiter();
        let away = place.with_extension("away");
        std::fs::rename(&place, &away).expect("rename");
        Self { place, away }
    }

    fn bring_back(self) {
        std::fs::rename(&self.away, &self.place).expect("rename");
    }
}

/// Waits until a host has asked in vain twice more.
fn asks_in_vain(loaded: &Loaded, host: &str) {
    for _ in 0..2 {
        let mark = look::mark(&loaded.cluster, host);
        look::event(&loaded.cluster, host, "arbiter_unreachable", mark);
    }
}

#[test]
fn without_an_arbiter_a_cut_link_holds_all_output_until_it_is_back() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("noarb").start();
    let arbiter = Away::take(&loaded);
    // As long as nothing fails, nobody needs it.
    loaded.progress();
    loaded.cluster.lab.cut_link(Link::Replication("beta")).expect("cut");
    asks_in_vain(&loaded, "alpha");
    asks_in_vain(&loaded, "beta");
    let held = loaded.acknowledged();
    let (alpha, beta) = (loaded.status("alpha"), loaded.status("beta"));
    assert_eq!((alpha.role, alpha.phase.as_str()), (Role::Primary, "claiming"));
    assert!(alpha.warnings.iter().any(|text| text.contains("output is held")), "{:?}", alpha.warnings);
    assert_eq!((beta.role, beta.phase.as_str()), (Role::Backup, "claiming"));
    asks_in_vain(&loaded, "alpha");
    assert_eq!(loaded.acknowledged(), held, "a client got an answer that nobody may give");
    arbiter.bring_back();
    let (winner, loser) = loaded.winner();
    loaded.progress();
    loaded.cluster.lab.heal_link(Link::Replication("beta")).expect("healed");
    loaded.protect(winner, loser);
    loaded.verdict();
}

#[test]
fn without_an_arbiter_a_backup_waits_until_it_is_back() {
    if !possible() {
        return;
    }
    let loaded = Setup::new("wait").start();
    let mark = look::mark(&loaded.cluster, "beta");
    let arbiter = Away::take(&loaded);
    loaded.cluster.lab.kill_host("alpha").expect("alpha dies");
    asks_in_vain(&loaded, "beta");
    let held = loaded.acknowledged();
    let beta = loaded.status("beta");
    assert_eq!((beta.role, beta.phase.as_str()), (Role::Backup, "claiming"));
    asks_in_vain(&loaded, "beta");
    assert_eq!(loaded.acknowledged(), held);
    assert!(!look::has_event(&loaded.cluster, "beta", "promoting", mark));
    arbiter.bring_back();
    loaded.runs_at("beta");
    loaded.verdict();
}
