//! The directory arbiter against the conformance checks, and against claimants in other processes.

use arbiter::directory::{DirectoryArbiter, init};
use arbiter::{Arbiter, conformance};
use protocol::{Claim, Grant, HostName, Term, VmName};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DIRECTORY: &str = "UNDYING_TEST_ARBITER";
const TERMS: u64 = 10;
const PROCESSES: usize = 8;
const THREADS: usize = 12;

#[test]
fn the_directory_arbiter_conforms() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path()).unwrap();
    conformance::run(&|| Box::new(DirectoryArbiter::new(directory.path())));
}

fn claim(term: u64, nonce: u64) -> Claim {
    let vm = VmName::new("raced").unwrap();
    Claim { vm, term: Term(term), host: HostName::new("some").unwrap(), nonce }
}

/// The body of a claimant process: for each term, waits for a line on its input, claims with several threads, and
/// prints each thread's nonce and the winner's.
#[test]
fn claimant_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let arbiter = DirectoryArbiter::new(Path::new(&directory));
    let mut input = std::io::stdin().lines();
    for term in 1..=TERMS {
        input.next().unwrap().unwrap();
        let race = |thread: usize| {
            let nonce = u64::from(std::process::id()) << 32 | thread as u64;
            let mine = claim(term, nonce);
            let record = arbiter.claim(&mine).unwrap();
            let won = Grant::from_record(&mine, &record).is_some();
            format!("RACED {} {}\n", record.claim.nonce, u8::from(won))
        };
        let lines: String = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || race(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        // Past the test harness, which keeps what is printed.
        std::io::stderr().write_all(lines.as_bytes()).unwrap();
    }
}

fn start(directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "claimant_process", "--nocapture"]).env(DIRECTORY, directory);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn one_of_many_processes_and_threads_wins_each_term() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path()).unwrap();
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| start(directory.path())).collect();
    let mut outputs: Vec<_> =
        children.iter_mut().map(|c| BufReader::new(c.stderr.take().unwrap()).lines()).collect();
    for term in 1..=TERMS {
        for child in &mut children {
            child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        }
        let (mut winners, mut told) = (0, Vec::new());
        for output in &mut outputs {
            for _ in 0..THREADS {
                let line = output.next().expect("a claimant ended early").unwrap();
                let (nonce, won) = line.strip_prefix("RACED ").unwrap().split_once(' ').unwrap();
                winners += u32::from(won == "1");
                told.push(nonce.to_owned());
            }
        }
        assert_eq!(winners, 1, "term {term} has one winner");
        assert!(told.iter().all(|nonce| *nonce == told[0]), "term {term}: all are told the same");
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}
