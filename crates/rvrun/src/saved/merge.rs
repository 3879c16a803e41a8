//! Owns making one whole snapshot of one that tells changes and of those that it is built on. The disks' blocks go through
//! memory a piece at a time; of the machine's RAM there are two copies at most.

use super::form::{Reading, Writing, Wrong};
use super::reader::open;
use super::{BLOCK, Head, SavedError, TOGETHER};
use rv::{Machine, Snapshot, SnapshotError};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

/// Writes the first of these files, the newest one, as a whole snapshot; each is built on the next. What was written is on its
/// medium when this returns.
///
/// # Errors
/// A file cannot be read or is damaged, or the new one not be written.
pub(super) fn merge(chain: &[PathBuf], to: &Path) -> Result<(), SavedError> {
    let failed =
        |source| SavedError::File { what: "write older snapshots, merged, to", path: to.to_owned(), source };
    let mut layers: Vec<Layer> = chain.iter().map(|path| Layer::open(path)).collect::<Result<_, _>>()?;
    let head = whole(&layers)?;
    let file = BufWriter::new(File::create(to).map_err(failed)?);
    let mut writing = Writing::begin(file, &head).map_err(failed)?;
    for (disk, numbers) in head.disks.iter().enumerate() {
        layers.iter_mut().for_each(|layer| layer.turn_to(disk));
        for &block in numbers {
            writing.block(&newest(&mut layers, block)?).map_err(failed)?;
        }
        writing.end_disk().map_err(failed)?;
    }
    let machine = machine(layers)?;
    let file = writing.machine(&machine).and_then(|file| Ok(file.into_inner()?)).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// The head of what these come to.
fn whole(layers: &[Layer]) -> Result<Head, SavedError> {
    let mut head = layers[0].reading.head.clone();
    head.base = None;
    for Layer { path, reading, .. } in layers {
        if reading.head.disks.len() != head.disks.len() {
            return Err(Wrong::from("it has other disks than what is built on it").at(path));
        }
    }
    for (disk, numbers) in head.disks.iter_mut().enumerate() {
        let all = layers.iter().flat_map(|layer| &layer.reading.head.disks[disk]);
        *numbers = all.copied().collect::<BTreeSet<u64>>().into_iter().collect();
    }
    Ok(head)
}

/// What a block of the disk that is read holds in the newest of the files that tell it.
fn newest(layers: &mut [Layer], block: u64) -> Result<Vec<u8>, SavedError> {
    let mut found = None;
    for layer in layers {
        // All of them are read on behind it.
        if let Some(bytes) = layer.take(block)? {
            found.get_or_insert(bytes);
        }
    }
    Ok(found.unwrap_or_default())
}

/// The newest machine, whole.
fn machine(layers: Vec<Layer>) -> Result<Snapshot, SavedError> {
    let mut newest: Option<(Machine, Snapshot)> = None;
    let path = layers[0].path.clone();
    let unfit = |error: SnapshotError| Wrong::Form(error.to_string()).at(&path);
    for layer in layers.into_iter().rev() {
        let (_, next) = layer.reading.machine().map_err(|wrong| wrong.at(&layer.path))?;
        let machine = match newest.take() {
            Some((mut machine, _)) => machine.follow(&next).map(|()| machine),
            None => next.machine(),
        };
        newest = Some((machine.map_err(unfit)?, next));
    }
    let (machine, last) = newest.expect("a chain has a file");
    last.merged(&machine).map_err(unfit)
}

/// A file of which one disk is read after the other.
struct Layer {
    path: PathBuf,
    reading: Reading<BufReader<File>>,
    disk: usize,
    /// So many blocks of the disk were read.
    at: usize,
    /// Those that were read together.
    some: Vec<u8>,
}

impl Layer {
    fn open(path: &Path) -> Result<Layer, SavedError> {
        Ok(Layer { path: path.to_owned(), reading: open(path)?, disk: 0, at: 0, some: Vec::new() })
    }

    fn turn_to(&mut self, disk: usize) {
        (self.disk, self.at) = (disk, 0);
    }

    /// The block, if it is the next one in here.
    fn take(&mut self, block: u64) -> Result<Option<Vec<u8>>, SavedError> {
        let numbers = &self.reading.head.disks[self.disk];
        if numbers.get(self.at) != Some(&block) {
            return Ok(None);
        }
        let place = self.at % TOGETHER;
        if place == 0 {
            let count = TOGETHER.min(numbers.len() - self.at);
            self.some = self.reading.blocks(count).map_err(|wrong| wrong.at(&self.path))?;
        }
        self.at += 1;
        Ok(Some(self.some[place * BLOCK..(place + 1) * BLOCK].to_vec()))
    }
}
