//! Serves a disk image on a unix socket until its standard input ends, then prints what was asked of it.
//! For trying clients and for measuring:
//! `cargo run --release -p disk --example serve -- disk.raw nbd.sock [answer-flushes-at-once]`

#![forbid(unsafe_code)]

use disk::{Access, Export, FlushUse, Image, Observer, Pace};
use protocol::What;
use std::error::Error;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

struct Flushes(FlushUse);

impl Observer for Flushes {
    fn written(&self, _: u64, _: What<'_>) -> Pace {
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        self.0
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (image, socket, flush) = match arguments.as_slice() {
        [image, socket] => (image, socket, FlushUse::Sync),
        [image, socket, how] if how == "answer-flushes-at-once" => (image, socket, FlushUse::AnswerAtOnce),
        _ => return Err("usage: serve IMAGE SOCKET [answer-flushes-at-once]".into()),
    };
    let image = Image::open(Path::new(image), Access::ReadWrite)?;
    let export = Export::serve(image, "disk", Path::new(socket), Arc::new(Flushes(flush)))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{}", serde_json::to_string_pretty(&export.stats())?);
    Ok(())
}
