//! Owns the names of the keys.

use protocol::{HostName, Term, VmName};

/// Number of digits of a term in a key: as many as the largest has, so that keys sort as terms do.
const DIGITS: usize = 20;

/// Keys from the first to before the second.
pub(super) type Range = (String, String);

/// The keys below a prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    pub(super) fn marker(&self) -> String {
        format!("{}/arbiter", self.prefix)
    }

    pub(super) fn token(&self, host: &HostName) -> String {
        format!("{}/token/{host}", self.prefix)
    }

    pub(super) fn term(&self, vm: &VmName, term: Term) -> String {
        format!("{}/vm/{vm}/term-{:0DIGITS$}", self.prefix, term.0)
    }

    pub(super) fn stop(&self, vm: &VmName, term: Term) -> String {
        format!("{}/vm/{vm}/stopped-{:0DIGITS$}", self.prefix, term.0)
    }

    /// The keys of all terms of a VM. `.` follows `-`.
    pub(super) fn terms(&self, vm: &VmName) -> Range {
        let begin = format!("{}/vm/{vm}/term", self.prefix);
        (format!("{begin}-"), format!("{begin}."))
    }

    pub(super) fn stops(&self, vm: &VmName) -> Range {
        let begin = format!("{}/vm/{vm}/stopped", self.prefix);
        (format!("{begin}-"), format!("{begin}."))
    }

    /// The keys of all VMs. `0` follows `/`.
    pub(super) fn all_vms(&self) -> Range {
        (format!("{}/vm/", self.prefix), format!("{}/vm0", self.prefix))
    }

    /// The first key behind all of a VM.
    pub(super) fn past(&self, vm: &VmName) -> String {
        format!("{}/vm/{vm}0", self.prefix)
    }

    /// The VM that a key is of.
    pub(super) fn vm_of(&self, key: &str) -> Option<VmName> {
        let (vm, _) = key.strip_prefix(&self.all_vms().0)?.split_once('/')?;
        VmName::new(vm).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> VmName {
        VmName::new(name).unwrap()
    }

    #[test]
    fn the_keys_are_a_contract() {
        let keys = Keys::new("/undying/");
        assert_eq!(keys.marker(), "/undying/arbiter");
        assert_eq!(keys.token(&HostName::new("alpha").unwrap()), "/undying/token/alpha");
        assert_eq!(keys.term(&vm("web"), Term(42)), "/undying/vm/web/term-00000000000000000042");
        assert_eq!(keys.stop(&vm("web"), Term(1)), "/undying/vm/web/stopped-00000000000000000001");
        assert_eq!(keys.vm_of("/undying/vm/web/term-1"), Some(vm("web")));
        assert_eq!(keys.vm_of("/undying/vm/.x/term-1"), None);
    }

    #[test]
    fn ranges_hold_all_of_a_vm_and_nothing_of_another() {
        let keys = Keys::new("p");
        let within = |range: &Range, key: &str| *range.0 <= *key && *key < *range.1;
        for term in [1, 9, 10, u64::MAX] {
            let key = keys.term(&vm("web"), Term(term));
            assert!(within(&keys.terms(&vm("web")), &key) && within(&keys.all_vms(), &key));
            assert!(!within(&keys.stops(&vm("web")), &key) && key < keys.past(&vm("web")));
            for other in ["we", "web-2", "web.x", "web0", "webb"] {
                assert!(!within(&keys.terms(&vm(other)), &key), "{other}");
                let other_key = keys.term(&vm(other), Term(1));
                let skipped = (keys.term(&vm("web"), Term(0)), keys.past(&vm("web")));
                assert!(!within(&skipped, &other_key), "{other} would be skipped");
            }
        }
        assert!(keys.term(&vm("web"), Term(9)) < keys.term(&vm("web"), Term(10)));
    }
}
