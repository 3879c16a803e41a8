//! Claimants in other processes: this test program, started again.

use super::claim;
use super::place::client;
use arbiter::ArbiterError;
use protocol::Grant;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

const ADDRESS: &str = "UNDYING_TEST_ARBITER";
const NUMBER: &str = "UNDYING_TEST_CLAIMANT";
/// The VM that all of them want.
pub const VM: &str = "raced";

/// What one claim of a claimant came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub term: u64,
    /// The nonce of the claim that won.
    pub winner: u64,
    /// The asker's own.
    pub mine: u64,
}

/// The body of a claimant: reads `TERM THREADS` lines, claims that term with so many threads, and says what each was
/// told, and the year that its clock shows. Does nothing where it is not started by [`Claimant::start`].
pub fn body() {
    let Some(address) = std::env::var(ADDRESS).ok() else { return };
    let number: u64 = std::env::var(NUMBER).unwrap().parse().unwrap();
    let arbiter = client(&address);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (term, threads) = line.split_once(' ').unwrap();
        let (term, threads): (u64, u64) = (term.parse().unwrap(), threads.parse().unwrap());
        let race = |thread: u64| {
            let mine = claim(VM, term, &format!("host-{number}"), number << 32 | term << 8 | thread);
            loop {
                match arbiter.claim(&mine) {
                    Ok(record) => {
                        assert_eq!(Grant::from_record(&mine, &record).is_some(), record.claim == mine);
                        let winner = record.claim.nonce;
                        break format!("TOLD {term} {winner} {}\n", mine.nonce);
                    }
                    Err(error @ ArbiterError::Unreachable { .. }) => drop(error),
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let mut said: String = std::thread::scope(|scope| {
            let race = &race;
            let threads: Vec<_> = (0..threads).map(|n| scope.spawn(move || race(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        said.push_str(&format!("YEAR {}\n", 1970 + now.as_secs() / (365 * 86400 + 20952)));
        // Past the test harness, which keeps what is printed.
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
}

/// A claimant's process.
pub struct Claimant {
    child: Child,
    orders: ChildStdin,
    output: Lines<BufReader<ChildStderr>>,
}

impl Claimant {
    /// Starts one; `claimants` must be a test of this program that calls [`body`].
    pub fn start(address: &str, number: u64, environment: &[(&str, PathBuf)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "claimants", "--nocapture"]).env(ADDRESS, address);
        command.env(NUMBER, number.to_string()).envs(environment.iter().cloned());
        let stdio = (Stdio::piped(), Stdio::null(), Stdio::piped());
        let mut child = command.stdin(stdio.0).stdout(stdio.1).stderr(stdio.2).spawn().unwrap();
        let (orders, errors) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
        Self { child, orders, output: BufReader::new(errors).lines() }
    }

    /// Begins to claim.
    pub fn order(&mut self, term: u64, threads: usize) {
        self.orders.write_all(format!("{term} {threads}\n").as_bytes()).unwrap();
    }

    /// What its threads were told, as far as it lived to say so, and the year it believes in.
    pub fn told(&mut self) -> (Vec<Told>, Option<u64>) {
        let mut told = Vec::new();
        for line in self.output.by_ref() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let numbers: Vec<u64> = words[1..].iter().filter_map(|word| word.parse().ok()).collect();
            match (words[0], &*numbers) {
                ("TOLD", &[term, winner, mine]) => told.push(Told { term, winner, mine }),
                ("YEAR", &[year]) => return (told, Some(year)),
                _ => panic!("a claimant says: {line}"),
            }
        }
        (told, None)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
