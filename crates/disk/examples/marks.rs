//! What marks cost a guest's writes: random writes of 4 KiB to an image, alone and with a difference map.
//!
//! `cargo run --release -p disk --example marks -- DIRECTORY [GIB [WRITES]]`; the directory should be on the file
//! system that an agent would use.

use disk::Image;
use disk::differences::DifferenceMap;
use disk::journal::FileStorage;
use protocol::resync::Base;
use protocol::{Session, Term, VmId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const BLOCK: u64 = 4096;

/// Sorted times of some writes, in microseconds.
fn report(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    println!(
        "{what}: mean {mean:.1} us, median {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory"));
    let number = |text: Option<String>, or: u64| text.map_or(or, |text| text.parse().expect("a number"));
    let (gib, writes) = (number(arguments.next(), 10), number(arguments.next(), 20_000));
    let size = gib << 30;
    let mut word = 1_u64;
    let offsets: Vec<u64> = std::iter::repeat_with(|| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 16) % (size / BLOCK) * BLOCK
    })
    .take(usize::try_from(writes).expect("a count"))
    .collect();
    let base = Base { term: Term(1), session: Session(1) };
    let storage = Arc::new(FileStorage::new(&directory).expect("a directory"));
    let map = DifferenceMap::create(storage, "differences", VmId(1), &[size], &[base]).expect("a map");
    let path = directory.join("marks.img");
    let image = Image::create(&path, size).expect("an image");
    let run = |mark: bool| -> Vec<f64> {
        let write = |&offset: &u64| {
            let start = Instant::now();
            if mark {
                map.before_write(0, offset, BLOCK).expect("marked");
            }
            image.write_at(offset, &[7; BLOCK as usize]).expect("written");
            start.elapsed().as_secs_f64() * 1e6
        };
        offsets.iter().map(write).collect()
    };
    // Once for the image's own blocks, which are new.
    run(false);
    report("without a map", run(false));
    report("first writes with a map", run(true));
    let activations = map.status().activations;
    report("again with a map", run(true));
    println!("{writes} writes of 4 KiB over {gib} GiB waited for {activations} activations");
    std::fs::remove_file(path).expect("removed");
    std::fs::remove_file(directory.join("differences")).expect("removed");
}
