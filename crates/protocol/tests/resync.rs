//! Comparing copies, at both machines: offered with Accept, asked and answered during the first copy, and no later.

mod common;

use common::*;
use protocol::backup::{self, Conn, PhaseName};
use protocol::notice::LinkLoss;
use protocol::primary::{Action, Event, PhaseName as Phase};
use protocol::resync::{Base, DiskOffer, MemoryOffer, Offer, Run};
use protocol::wire::compare::{Ask, Hashes, MAX_ASKS, Seed, Store};
use protocol::wire::{ToBackup, ToPrimary};
use protocol::{Epoch, Session, Term};

fn offer() -> Offer {
    let base = Base { term: Term(1), session: Session(7) };
    let disks = DiskOffer::Copies { bases: vec![base], marked: vec![Run { disk: 0, offset: 0, len: 512 }] };
    Offer { disks, memory: MemoryOffer::Remnant }
}

fn ask() -> Ask {
    Ask { of: Store::Disks, seed: Seed(1), runs: vec![Run { disk: 0, offset: 0, len: 4096 }] }
}

fn hashes() -> Hashes {
    Hashes { sums: vec![5] }
}

fn is_broken(actions: &[backup::Action]) -> bool {
    actions.iter().any(|action| matches!(action, backup::Action::Send(C1, ToPrimary::Broken(_))))
}

#[test]
fn what_the_backup_offers_reaches_the_copy_and_so_do_hashes() {
    let mut owner = Owner::unprotected();
    owner.protect(short());
    owner.feed(Event::Connected(S1));
    let copy = owner.hears_in(S1, ToPrimary::Accept(offer()));
    assert!(copy.contains(&Action::StartCopy(S1, offer())), "{copy:?}");
    let told = owner.hears_in(S1, ToPrimary::Hashes(hashes()));
    assert!(told.contains(&Action::Compared(S1, hashes())), "{told:?}");
    assert_eq!(owner.hears_in(Session(9), ToPrimary::Hashes(hashes())), [], "of another session");
    owner.feed(Event::Copied(S1));
    owner.hears_in(S1, ToPrimary::Hashes(hashes()));
    assert_eq!(owner.phase(), Phase::Unprotected, "nobody asked");
}

#[test]
fn hashes_are_given_during_the_first_copy_and_in_bounds() {
    let mut standby = Standby::copying();
    for _ in 0..MAX_ASKS {
        assert_eq!(standby.hears(ToBackup::Ask(ask())), [backup::Action::Compare(C1, ask())]);
    }
    let answered = standby.feed(backup::Event::Compared(C1, hashes()));
    assert_eq!(answered, [backup::Action::Send(C1, ToPrimary::Hashes(hashes()))]);
    assert_eq!(standby.hears(ToBackup::Ask(ask())).len(), 1, "there is room again");
    assert_eq!(standby.feed(backup::Event::Compared(Conn(9), hashes())), [], "of another connection");
    assert!(is_broken(&standby.hears(ToBackup::Ask(ask()))), "one too many");
    assert_eq!(standby.phase(), PhaseName::Done);

    let mut armed = Standby::armed();
    assert!(is_broken(&armed.hears(ToBackup::Ask(ask()))), "the copy is over");
}

#[test]
fn a_copy_that_cannot_be_read_ends_the_session_and_says_why() {
    let mut standby = Standby::copying();
    standby.hears(ToBackup::Ask(ask()));
    let told = standby.feed(backup::Event::CompareFailed(C1, "input/output error".into()));
    let why = |action: &backup::Action| match action {
        backup::Action::Send(C1, ToPrimary::Broken(why)) => Some(why.clone()),
        _ => None,
    };
    let why = told.iter().find_map(why).expect("the primary is told");
    assert!(why.contains("input/output error"), "{why}");
    let mut owner = Owner::unprotected();
    owner.protect(short());
    owner.feed(Event::Connected(S1));
    owner.hears_in(S1, ToPrimary::Accept(offer()));
    let lost = owner.feed(Event::Disconnected(S1, LinkLoss::Broken(why)));
    assert_eq!(owner.phase(), Phase::Unprotected);
    assert!(lost.contains(&Action::EndSession(S1)));
}

#[test]
fn what_is_acknowledged_is_told() {
    let mut owner = Owner::protected(short());
    assert!(asks_for_checkpoint(&owner.pass(short().interval), 2, false));
    owner.takes(2);
    assert!(owner.hears_ack(2).contains(&Action::Acknowledged(S1, Epoch(2))));
}
