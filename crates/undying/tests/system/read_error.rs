//! A disk of the owner's that cannot be read everywhere: it cannot be protected, which is said, and the guest runs on.

use crate::disks::{IMAGE, MIB};
use crate::kit::medium::BrokenMedium;
use crate::kit::{Setup, look, possible};

/// The guest has nothing there.
const BROKEN_FROM: u64 = (MIB - 8) << 20;

#[test]
fn a_disk_that_cannot_be_read_is_not_protected_and_the_guest_runs_on() {
    if !possible() {
        return;
    }
    let setup = Setup::new("unreadable");
    let cluster = setup.cluster();
    let file = cluster.make_disk("alpha", "medium", MIB).expect("a file");
    let Some(medium) = BrokenMedium::on(&file) else { return };
    std::os::unix::fs::symlink(medium.device(), cluster.disk("alpha", IMAGE)).expect("a name");
    let vm = setup.vm_file().on_disk(IMAGE);
    let loaded = setup.boot_file_on(cluster, vm).load("log");
    loaded.progress();

    medium.breaks_at(BROKEN_FROM);
    let mark = look::mark(&loaded.cluster, "alpha");
    loaded.ask_protect("alpha", "beta").expect("accepted");
    let told = look::event(&loaded.cluster, "alpha", "protect_failed", mark);
    assert!(told.text.contains(IMAGE) && told.text.contains("error"), "{}", told.text);
    loaded.progress();
    assert_eq!(loaded.status("alpha").phase, "unprotected");

    medium.is_mended();
    loaded.protect("alpha", "beta");
    loaded.fails_over("alpha", "beta");
    loaded.progress();
    loaded.verdict();
}
