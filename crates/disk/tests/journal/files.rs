//! The journal on a real file system.

use crate::model::{TERM, identity};
use disk::journal::{
    FileStorage, Journal, Layout, Step, Storage, Target, apply, load_stamp, recover, save_stamp,
};
use protocol::journal::Stamp;
use protocol::journal::stamp::Content;
use protocol::{Change, Epoch, Session, VmId, What};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

struct Image(File);

impl Image {
    fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(1 << 22).unwrap();
        Self(file)
    }
}

impl Target for Image {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0.write_all_at(&vec![0; len as usize], offset)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[test]
fn epochs_survive_the_program_on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let journal_dir = dir.path().join("journal");
    let storage = Arc::new(FileStorage::new(&journal_dir).unwrap());
    let layout = Layout::within(16 << 20).unwrap();
    let mut image = Image::open(&dir.path().join("disk.img"));
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let write = Change { disk: 0, offset: 4096, what: What::Data(&data) };
    let hole = Change { disk: 0, offset: 5000, what: What::Zeroes(1000) };

    let mut journal = Journal::create(Arc::clone(&storage), layout, identity(), TERM, Epoch(0)).unwrap();
    journal.append(TERM, Epoch(1), &[write]).unwrap();
    journal.commit(TERM, Epoch(1)).unwrap();
    apply(&mut journal.replay().unwrap().unwrap(), &mut [&mut image]).unwrap();
    journal.mark_applied(Epoch(1)).unwrap();
    journal.append(TERM, Epoch(2), &[hole]).unwrap();
    journal.commit(TERM, Epoch(2)).unwrap();
    journal.append(TERM, Epoch(3), &[write]).unwrap();
    drop(journal);

    let storage = Arc::new(FileStorage::new(&journal_dir).unwrap());
    let opened = Journal::open(Arc::clone(&storage), identity(), Epoch(2)).unwrap();
    assert_eq!((opened.applied(), opened.committed()), (Epoch(1), Epoch(2)));
    assert_eq!(opened.label(), "epochs, then one without commit");
    assert_eq!(opened.replay().unwrap().step().unwrap(), Some(Step::Change(Epoch(2), hole)));
    let mut journal = recover(opened, &mut [&mut image]).unwrap();
    journal.append(TERM, Epoch(3), &[hole]).unwrap();
    journal.commit(TERM, Epoch(3)).unwrap();

    let mut found = vec![0; data.len()];
    image.0.read_exact_at(&mut found, 4096).unwrap();
    let mut want = data;
    want[904..1904].fill(0);
    assert!(found == want);
}

#[test]
fn a_stamp_is_replaced_on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::new(dir.path()).unwrap();
    let vm = VmId(5);
    assert_eq!(load_stamp(&storage, "stamp", vm).unwrap(), None);
    for number in 1..=2 {
        let epoch = Epoch(number);
        let stamp = Stamp { vm, term: TERM, session: Session(2), epoch, content: Content::Running };
        save_stamp(&storage, "stamp", &stamp).unwrap();
        assert_eq!(load_stamp(&storage, "stamp", vm).unwrap(), Some(stamp));
    }
    assert_eq!(storage.list().unwrap(), ["stamp"]);
    let error = load_stamp(&storage, "stamp", VmId(6)).unwrap_err().to_string();
    assert!(error.contains("the other host's copy"), "{error}");
}
