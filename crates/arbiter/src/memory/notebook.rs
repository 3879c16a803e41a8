//! Owns the files of a host's memory, and the thread that writes them.

use super::Known;
use crate::ArbiterError;
use crate::record::{self, Marker};
use crate::store;
use protocol::{TermRecord, VmName};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Begins the file of a VM: a VM may have any name.
const VM: &str = "vm-";
const IDENTITY: &str = "identity";

/// What is to be remembered.
pub(super) enum Note {
    Identity(String),
    Term(TermRecord),
}

/// The files of a host's memory.
pub(super) struct Notebook {
    directory: PathBuf,
    /// Closed to end the thread.
    notes: Option<Sender<Note>>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<Mutex<Option<(PathBuf, String)>>>,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ArbiterError {
    let path = path.to_owned();
    move |source| ArbiterError::Memory { path, source }
}

impl Notebook {
    /// Reads what was remembered and begins to write.
    pub(super) fn open(directory: &Path) -> Result<(Self, Known), ArbiterError> {
        std::fs::create_dir_all(directory).map_err(failed(directory))?;
        let known = load(directory)?;
        let (notes, queue) = channel();
        let trouble = Arc::new(Mutex::new(None));
        let mut notebook =
            Self { directory: directory.to_owned(), notes: Some(notes), thread: None, trouble };
        let (folder, troubled) = (notebook.directory.clone(), Arc::clone(&notebook.trouble));
        let body = move || keep(&folder, &queue, &troubled);
        let thread = std::thread::Builder::new().name("ud-memory".into()).spawn(body);
        notebook.thread = Some(thread.map_err(failed(directory))?);
        Ok((notebook, known))
    }

    pub(super) fn file_of_vm(&self, vm: &VmName) -> PathBuf {
        self.directory.join(format!("{VM}{vm}"))
    }

    pub(super) fn file_of_identity(&self) -> PathBuf {
        self.directory.join(IDENTITY)
    }

    /// Writes a note, soon.
    pub(super) fn write(&self, note: Note) {
        if let Some(notes) = &self.notes {
            // The thread lives as long as this does.
            let _ = notes.send(note);
        }
    }

    /// Why the newest note could not be written.
    pub(super) fn trouble(&self) -> Option<ArbiterError> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, why) = trouble.clone()?;
        Some(ArbiterError::Memory { path, source: io::Error::other(why) })
    }
}

impl Drop for Notebook {
    fn drop(&mut self) {
        self.notes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(directory: &Path, notes: &Receiver<Note>, trouble: &Mutex<Option<(PathBuf, String)>>) {
    for note in notes {
        let (name, bytes) = match note {
            Note::Identity(identity) => (IDENTITY.to_owned(), record::encode(&Marker { identity })),
            Note::Term(record) => (format!("{VM}{}", record.claim.vm), record::encode(&record)),
        };
        let why = replace(directory, &name, &bytes).err().map(|error| error.to_string());
        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.map(|why| (directory.join(&name), why));
    }
}

/// Puts a file in the place of an older one, whole or not at all.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let staged = directory.join(format!("{}{name}", store::TEMPORARY));
    let mut file = File::create(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&staged, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn load(directory: &Path) -> Result<Known, ArbiterError> {
    let mut known = Known::default();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let read = || std::fs::read(&path).map_err(failed(&path));
        let wrong = |why: String| failed(&path)(io::Error::new(io::ErrorKind::InvalidData, why));
        if name == IDENTITY {
            let marker: Marker = record::decode(&read()?).map_err(wrong)?;
            known.identity = Some(marker.identity);
        } else if let Some(vm) = name.strip_prefix(VM) {
            let record: TermRecord = record::decode(&read()?).map_err(wrong)?;
            if record.claim.vm.as_str() != vm {
                return Err(wrong(format!("it is of VM {}", record.claim.vm)));
            }
            known.vms.insert(record.claim.vm.clone(), record);
        }
    }
    Ok(known)
}
