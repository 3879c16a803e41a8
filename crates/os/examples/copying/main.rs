//! Measures two ways of copying a checkpoint's pages other than by one thread while the guest stands still: several
//! threads, and letting the guest go before all is copied (copy on write). A child of this program stands for the guest;
//! its memory, its watches and the copying are those that the engine has.
//!
//! `cargo run --release -p os --example copying -- [threads|write] [ROUNDS]`, as root, on a quiet machine: the first question or
//! the second, with 50 rounds unless told otherwise: some three minutes. Times are *median / p99* in microseconds.

mod copiers;
mod guest;
mod on_write;
mod threads;
mod times;

use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let question = std::env::args().nth(1).unwrap_or_default();
    if question == guest::ROLE {
        return guest::main();
    }
    let rounds = std::env::args().nth(2).map_or(Ok(50), |text| text.parse())?;
    let measure = match question.as_str() {
        "threads" => threads::measure,
        "write" => on_write::measure,
        _ => return Err("usage: copying threads|write [ROUNDS]".into()),
    };
    if let Err(error) = os::sched::raise_current_thread() {
        println!("NOT AS THE ENGINE: {error}");
    }
    measure(&mut guest::Guest::start()?, rounds)
}
