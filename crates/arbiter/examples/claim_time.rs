//! Measures how long a claim takes at an arbiter, as hosts make it: with a memory, one after the other.
//!
//! `cargo run --release -p arbiter --example claim_time -- directory DIR | witness NAME ADDRESS STATE_DIR | etcd URL...`,
//! with the state directory of host `alpha`, which the witness trusts

use arbiter::directory::DirectoryArbiter;
use arbiter::etcd::{EtcdArbiter, EtcdPlace, TlsFiles};
use arbiter::memory::Remembering;
use arbiter::witness::WitnessArbiter;
use arbiter::{Arbiter, ArbiterError};
use protocol::{Claim, HostName, Term, VmName};
use std::time::Instant;
use trust::Store;

const CLAIMS: u64 = 200;

fn arbiter(kind: &str, place: &[String]) -> Result<Box<dyn Arbiter>, Box<dyn std::error::Error>> {
    Ok(match (kind, place) {
        ("directory", [path]) => Box::new(DirectoryArbiter::new(path.as_ref())),
        ("witness", [name, address, state_dir]) => {
            let trust = Store::new(state_dir.as_ref(), &HostName::new("alpha")?);
            Box::new(WitnessArbiter::new(HostName::new(name)?, address.parse()?, trust))
        }
        ("etcd", [_, ..]) => {
            let place =
                EtcdPlace { endpoints: place.to_vec(), prefix: "undying".into(), tls: TlsFiles::default() };
            Box::new(EtcdArbiter::new(&place)?)
        }
        _ => return Err("say: directory DIR | witness NAME ADDRESS STATE_DIR | etcd URL...".into()),
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kind, place) = arguments.split_first().ok_or("say which arbiter")?;
    let memory = std::env::temp_dir().join(format!("claim-time-{}", std::process::id()));
    let arbiter = Remembering::new(arbiter(kind, place)?, &memory)?;
    let vm = VmName::new(&format!("claim-time-{}", std::process::id()))?;
    let mut times = Vec::new();
    for term in 1..=CLAIMS {
        let claim = Claim { vm: vm.clone(), term: Term(term), host: HostName::new("alpha")?, nonce: term };
        let began = Instant::now();
        let record: Result<_, ArbiterError> = arbiter.claim(&claim);
        assert_eq!(record?.claim, claim, "nobody else claims");
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    drop(arbiter);
    std::fs::remove_dir_all(memory)?;
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{kind}: {CLAIMS} claims, median {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(50), at(99), at(100));
    Ok(())
}
