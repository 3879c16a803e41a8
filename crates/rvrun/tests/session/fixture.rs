//! A recording that an earlier build made: every later one does the same.
//!
//! If the form of recordings changes, or on purpose what the machine does, it is made anew:
//! `cargo test -p rvrun --test session -- --ignored make_the_fixture`.

use crate::guest::{Text, hard_working_kernel, session_with};
use rvrun::Screen;
use rvrun::replay::{Reached, Replay};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const INSTRUCTIONS: u64 = 4640;
const STATE: u64 = 0x3135_6ebb_045b_8cd3;
const OUTPUTS: u64 = 0x4452_abf4_d7d5_8788;

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn a_recording_of_an_earlier_build_is_done_again() {
    let text = Text::default();
    let log = File::open(place("session.log")).unwrap();
    let correct = |setup: &mut rvrun::setup::Setup| setup.kernel.path = place("kernel");
    let mut replay = Replay::begin(log, correct, Screen::new(text.clone()), &[]).unwrap();
    let summary = replay.run(None).unwrap();
    assert_eq!((summary.reached, summary.reboots), (Reached::End, 1));
    assert_eq!(text.seen(), "#bcd#yz{");
    assert_eq!((summary.instructions, summary.state, summary.outputs), (INSTRUCTIONS, STATE, OUTPUTS));
}

#[test]
#[ignore = "writes the fixture"]
fn make_the_fixture() {
    let kernel = hard_working_kernel();
    let session =
        session_with(&kernel, None, &[(1, "a"), (2, "bc"), (4, "!"), (5, "xy"), (7, "z"), (8, ".")]);
    fs::create_dir_all(place("")).unwrap();
    fs::write(place("kernel"), kernel).unwrap();
    fs::copy(session.log(), place("session.log")).unwrap();
    let summary = session.summary;
    println!("INSTRUCTIONS {}", summary.instructions);
    println!("STATE {:#018x}\nOUTPUTS {:#018x}", summary.state, summary.outputs);
}
