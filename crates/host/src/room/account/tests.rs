use super::*;
use proptest::prelude::*;

const MEMORY: u64 = 100;
const FREE: u64 = 1_000;

/// A medium on which nothing was written, but to files named `half`.
struct Blank;

impl Media for Blank {
    fn file_system(&self, path: &Path) -> Option<u64> {
        (!path.starts_with("/dev")).then_some(1)
    }

    fn free(&self, _: &Path) -> u64 {
        FREE
    }

    fn taken(&self, path: &Path) -> u64 {
        if path.ends_with("half") { 400 } else { 0 }
    }
}

fn name(number: u8) -> VmName {
    VmName::new(&format!("vm{number}")).unwrap()
}

fn account(vms: Option<u32>, whole_host: bool) -> Account {
    Account::new(Limits { memory: MEMORY, vms, whole_host })
}

fn memory(memory: u64) -> Needs {
    Needs { memory, ..Needs::default() }
}

fn file(path: &str, size: u64) -> Needs {
    Needs { files: vec![(path.into(), size)], ..Needs::default() }
}

#[test]
fn what_does_not_fit_is_told_with_what_is_left() {
    let mut account = account(None, false);
    account.admit(&name(1), Needs { memory: 60, buffers: 10, ..Needs::default() }, &Blank).unwrap();
    let shortage = account.admit(&name(2), memory(31), &Blank).unwrap_err();
    assert_eq!(shortage, Shortage { lack: Lack::Memory, needs: 31, left: 30, of: MEMORY });
    account.admit(&name(2), memory(30), &Blank).unwrap();
    assert_eq!(account.admit(&name(3), memory(u64::MAX), &Blank).unwrap_err().left, 0);
}

#[test]
fn a_vm_that_took_over_keeps_its_memory_and_counts_and_one_that_was_started_only_against_a_whole_host() {
    for whole_host in [false, true] {
        let mut account = account(Some(2), whole_host);
        let ticket =
            account.admit(&name(1), Needs { memory: 60, buffers: 10, ..Needs::default() }, &Blank).unwrap();
        account.took_over(&name(1), ticket);
        assert_eq!(account.used(), 60);
        account.started(&name(2), 1_000);
        assert_eq!(account.admit(&name(3), memory(40), &Blank).is_ok(), !whole_host);
    }
}

#[test]
fn the_number_of_standbys_is_bounded() {
    let mut account = account(Some(1), false);
    let ticket = account.admit(&name(1), memory(1), &Blank).unwrap();
    let shortage = account.admit(&name(2), memory(1), &Blank).unwrap_err();
    assert_eq!(shortage, Shortage { lack: Lack::Vms, needs: 1, left: 0, of: 1 });
    account.admit(&name(1), memory(2), &Blank).expect("its own next session is the same VM");
    account.release(&name(1), ticket);
    assert_eq!(account.used(), 2, "the old session's end frees nothing of the new one's");
}

#[test]
fn what_others_were_promised_of_a_disk_is_not_free_and_what_is_there_already_is_not_needed() {
    let mut account = account(None, false);
    account.admit(&name(1), file("/a/half", 1_000), &Blank).unwrap();
    let shortage = account.admit(&name(2), file("/a/whole", 401), &Blank).unwrap_err();
    assert_eq!(shortage, Shortage { lack: Lack::Disk, needs: 401, left: 400, of: FREE });
    account.admit(&name(2), file("/a/whole", 400), &Blank).unwrap();
    account.admit(&name(3), file("/dev/sdb", u64::MAX), &Blank).expect("a device is its own room");
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8, u64, u64),
    Started(u8, u64),
    Resize(usize, u64),
    TookOver(usize),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u8, 0..70_u64, 0..20_u64).prop_map(|(vm, memory, buffers)| Step::Admit(vm, memory, buffers)),
        (6..8_u8, 0..70_u64).prop_map(|(vm, memory)| Step::Started(vm, memory)),
        (any::<usize>(), 0..70_u64).prop_map(|(which, buffers)| Step::Resize(which, buffers)),
        any::<usize>().prop_map(Step::TookOver),
        any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    /// Against the plainest book-keeping there is: a list of all reservations that were ever made.
    #[test]
    fn the_account_is_exact(steps in prop::collection::vec(step(), 0..60), whole_host: bool) {
        let mut account = account(None, whole_host);
        let mut all: Vec<(VmName, Ticket)> = Vec::new();
        let mut live: BTreeMap<VmName, (Ticket, u64, u64, bool)> = BTreeMap::new();
        for step in steps {
            let used = |live: &BTreeMap<VmName, (Ticket, u64, u64, bool)>, beside: &VmName| -> u64 {
                let others = live.iter().filter(|(vm, held)| *vm != beside && (whole_host || !held.3));
                others.map(|(_, held)| held.1 + held.2).sum()
            };
            match step {
                Step::Admit(vm, memory, buffers) => {
                    let fits = memory + buffers <= MEMORY.saturating_sub(used(&live, &name(vm)));
                    let needs = Needs { memory, buffers, files: Vec::new() };
                    let ticket = account.admit(&name(vm), needs, &Blank);
                    prop_assert_eq!(ticket.is_ok(), fits);
                    if let Ok(ticket) = ticket {
                        all.push((name(vm), ticket));
                        live.insert(name(vm), (ticket, memory, buffers, false));
                    }
                }
                Step::Started(vm, memory) => {
                    let ticket = account.started(&name(vm), memory);
                    all.push((name(vm), ticket));
                    live.insert(name(vm), (ticket, memory, 0, true));
                }
                Step::Resize(which, buffers) if !all.is_empty() => {
                    let (vm, ticket) = all[which % all.len()].clone();
                    let beside = used(&live, &vm);
                    let done = account.resize(&vm, ticket, buffers).is_ok();
                    match live.get_mut(&vm).filter(|held| held.0 == ticket) {
                        Some(held) => {
                            let fits = held.1 + buffers <= MEMORY.saturating_sub(beside);
                            prop_assert_eq!(done, buffers <= held.2 || fits);
                            if done { held.2 = buffers; }
                        }
                        None => prop_assert!(done, "a reservation that is over changes nothing"),
                    }
                }
                Step::TookOver(which) if !all.is_empty() => {
                    let (vm, ticket) = all[which % all.len()].clone();
                    account.took_over(&vm, ticket);
                    if let Some(held) = live.get_mut(&vm).filter(|held| held.0 == ticket) {
                        (held.2, held.3) = (0, false);
                    }
                }
                Step::Release(which) if !all.is_empty() => {
                    let (vm, ticket) = all[which % all.len()].clone();
                    account.release(&vm, ticket);
                    if live.get(&vm).is_some_and(|held| held.0 == ticket) { live.remove(&vm); }
                }
                _ => {}
            }
            prop_assert_eq!(account.used(), used(&live, &name(99)));
        }
        for (vm, ticket) in all {
            account.release(&vm, ticket);
        }
        prop_assert_eq!(account.used(), 0, "everything comes back");
    }
}
