//! Owns what a machine is made of, so that it can be made again: the same at a reboot, and for a replay.

use crate::saved::{Saved, SavedError};
use crate::world::random;
use rv::{BootError, Disk, Files, Hardware, Hotness, Machine};
use rvjit::Pieces;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes in a seed.
const SEED: usize = 64;

/// Why a machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel does not fit.
    #[error("cannot boot {path}: {source}")]
    Boot {
        /// The kernel.
        path: PathBuf,
        /// Why.
        source: BootError,
    },
    /// The snapshot that it begins at cannot be used.
    #[error(transparent)]
    Saved(#[from] Box<SavedError>),
    /// The snapshot that it begins at is not there.
    #[error(
        "the run went on from the snapshot {path}, which is not there: if it was moved, name it with `--origin`; if the run \
         that took it removed it (`--keep-snapshots`), this recording cannot be done again without a copy of it"
    )]
    NoOrigin {
        /// Where it was.
        path: PathBuf,
    },
    /// A file is not the one that it was made of.
    #[error(
        "{path} is not the file that the machine was made of: give the one that has {length} bytes and the digest \
         {digest:016x}"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// Length of the right one.
        length: u64,
        /// xxh3 of the right one.
        digest: u64,
    },
}

/// A file by where it was and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// Where it was.
    pub path: PathBuf,
    /// Its length.
    pub length: u64,
    /// xxh3 of its bytes.
    pub digest: u64,
}

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Bytes of RAM.
    pub memory: u64,
    /// The kernel's command line.
    pub command_line: String,
    /// The kernel, an uncompressed image.
    pub kernel: FileId,
    /// The initial file system.
    pub initrd: Option<FileId>,
    /// Firmware that begins in machine mode; without, the machine is the firmware.
    pub firmware: Option<FileId>,
    /// Whether there is a virtio console.
    pub terminal: bool,
    /// Disks: sectors, and whether they are read-only.
    pub disks: Vec<(u64, bool)>,
    /// Addresses of network cards.
    pub cards: Vec<[u8; 6]>,
    /// What the kernel's generator of random numbers begins with.
    pub seed: Vec<u8>,
    /// The snapshot that it begins at, if it does not begin with a boot.
    pub from: Option<Origin>,
}

/// A snapshot by where it was and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where it was.
    pub path: PathBuf,
    /// What its machine is called: see [`rv::Snapshot::id`].
    pub id: u64,
}

/// A setup with its files in memory.
#[derive(Debug)]
pub struct Parts {
    setup: Setup,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    firmware: Option<Vec<u8>>,
    hotness: Option<Hotness>,
}

impl Setup {
    /// A setup without devices, of these files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn new(
        memory: u64,
        command_line: &str,
        kernel: &Path,
        initrd: Option<&Path>,
    ) -> Result<Setup, SetupError> {
        Ok(Setup {
            memory,
            command_line: command_line.to_owned(),
            kernel: FileId::of(kernel)?.0,
            initrd: initrd.map(|path| FileId::of(path).map(|(id, _)| id)).transpose()?,
            firmware: None,
            terminal: false,
            disks: Vec::new(),
            cards: Vec::new(),
            seed: Vec::new(),
            from: None,
        })
    }

    /// The same with firmware that begins in machine mode.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn with_firmware(self, firmware: &Path) -> Result<Setup, SetupError> {
        Ok(Setup { firmware: Some(FileId::of(firmware)?.0), ..self })
    }

    /// Draws what the kernel's generator of random numbers begins with.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn draw_seed(&mut self) -> io::Result<()> {
        self.seed = random(SEED)?;
        Ok(())
    }

    /// Reads the files; they must be what they were when the setup was made.
    ///
    /// # Errors
    /// A file cannot be read, or is another one.
    pub fn load(self) -> Result<Parts, SetupError> {
        let kernel = self.kernel.read()?;
        let initrd = self.initrd.as_ref().map(FileId::read).transpose()?.unwrap_or_default();
        let firmware = self.firmware.as_ref().map(FileId::read).transpose()?;
        Ok(Parts { setup: self, kernel, initrd, firmware, hotness: Some(Hotness::default()) })
    }

    fn hardware(&self) -> Hardware {
        let disk = |&(sectors, read_only): &(u64, bool)| Disk { sectors, read_only };
        Hardware {
            disks: self.disks.iter().map(disk).collect(),
            cards: self.cards.clone(),
            terminal: self.terminal,
            entropy: true,
            seed: self.seed.clone(),
        }
    }
}

impl FileId {
    fn of(path: &Path) -> Result<(FileId, Vec<u8>), SetupError> {
        let bytes =
            std::fs::read(path).map_err(|source| SetupError::File { path: path.to_owned(), source })?;
        let id = FileId { path: path.to_owned(), length: bytes.len() as u64, digest: xxh3_64(&bytes) };
        Ok((id, bytes))
    }

    fn read(&self) -> Result<Vec<u8>, SetupError> {
        let (id, bytes) = FileId::of(&self.path)?;
        if id == *self {
            return Ok(bytes);
        }
        Err(SetupError::Other { path: self.path.clone(), length: self.length, digest: self.digest })
    }
}

impl Parts {
    /// What it is made of.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// When the machine's instructions are compiled; none if all are interpreted. What the machine does is the same.
    pub fn set_hotness(&mut self, hotness: Option<Hotness>) {
        self.hotness = hotness;
    }

    /// The machine where its run begins: at a snapshot, or at its first instruction.
    ///
    /// # Errors
    /// The snapshot cannot be used or is another one, or as with [`Parts::machine`].
    pub fn first(&self) -> Result<Machine, SetupError> {
        let Some(Origin { path, id }) = &self.setup.from else { return self.machine() };
        let mut saved = match Saved::load(path) {
            Err(SavedError::Missing { path }) => return Err(SetupError::NoOrigin { path }),
            loaded => loaded.map_err(Box::new)?,
        };
        if saved.id() != *id {
            return Err(Box::new(SavedError::OtherRun { path: path.clone() }).into());
        }
        self.let_compile(&mut saved.machine);
        Ok(saved.machine)
    }

    /// A machine at its first instruction.
    ///
    /// # Errors
    /// The kernel does not fit, or there are too many devices.
    pub fn machine(&self) -> Result<Machine, SetupError> {
        let failed = |source| self.cannot_boot(source);
        let memory = self.memory()?;
        let files = Files {
            firmware: self.firmware.as_deref(),
            kernel: &self.kernel,
            initrd: &self.initrd,
            command_line: &self.setup.command_line,
        };
        let mut machine = Machine::with_hardware(memory, &self.setup.hardware(), &files).map_err(failed)?;
        self.let_compile(&mut machine);
        Ok(machine)
    }

    /// A machine with its RAM and nothing in it, for the RAM and the state of another one that is made of the same.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(crate) fn blank(&self) -> Result<Machine, SetupError> {
        let memory = self.memory()?;
        // Asked for once before: what is not there then is an error, not the end of the program.
        let room = Vec::<u8>::new().try_reserve_exact(memory);
        room.map_err(|_| self.cannot_boot(BootError::TooMuchRam))?;
        let mut machine = Machine::new(memory);
        self.let_compile(&mut machine);
        Ok(machine)
    }

    fn memory(&self) -> Result<usize, SetupError> {
        usize::try_from(self.setup.memory).map_err(|_| self.cannot_boot(BootError::TooMuchRam))
    }

    fn cannot_boot(&self, source: BootError) -> SetupError {
        SetupError::Boot { path: self.setup.kernel.path.clone(), source }
    }

    /// Gives the machine a compiler, where there is one for this host and it is wanted.
    pub(crate) fn let_compile(&self, machine: &mut Machine) {
        let made = self.hotness.map(|hotness| (hotness, Pieces::beside()));
        match made {
            Some((hotness, Ok(pieces))) => machine.compile_with(Box::new(pieces), hotness),
            _ => machine.interpret(),
        }
    }
}
