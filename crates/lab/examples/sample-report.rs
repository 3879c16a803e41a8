//! Writes a report of made-up numbers, to look at the page: `cargo run -p lab --example sample-report -- DIR`.

#[path = "../tests/common/sample.rs"]
mod sample;

fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "target/sample-report".into());
    match sample::sample_report().write(directory.as_ref()) {
        Ok(()) => println!("made-up numbers in {directory}/report.html"),
        Err(error) => eprintln!("{error}"),
    }
}
