//! What the tests put around a machine: its sockets' other ends, a disk in memory, what it told.

use net::framing::{self, FrameReader};
use rustix::net::{SendFlags, sockopt};
use rvrun::Medium;
use rvrun::hosted::{Hosted, PAGE, Told, Wires};
use rvrun::setup::{Parts, Setup};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

pub const RAM: u64 = 4 << 20;
const SECTORS: u64 = 1024;

/// A disk in memory, which several machines can reach.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Vec<u8>>>);

impl Disk {
    pub fn new() -> Disk {
        Disk(Arc::new(Mutex::new(vec![0; SECTORS as usize * 512])))
    }
}

impl Medium for Disk {
    fn size(&self) -> u64 {
        SECTORS * 512
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A machine's sockets, from both sides.
struct Ends {
    console: UnixStream,
    card: UnixStream,
    /// The machine's own: what it did not read can be read here when it is gone.
    there: [OwnedFd; 2],
}

/// Who talks with a machine, or with several, one after the other.
pub struct Peer {
    ends: Ends,
    reader: FrameReader,
    pub said: Vec<u8>,
    pub frames: Vec<Vec<u8>>,
    failed: Arc<Mutex<Option<String>>>,
}

impl Peer {
    /// With the machine's ends. What the machine sends fills its sockets soon.
    pub fn new() -> (Peer, OwnedFd, OwnedFd) {
        let [(console, console_there), (card, card_there)] = [0, 1].map(|_| UnixStream::pair().unwrap());
        for there in [&console_there, &card_there] {
            sockopt::set_socket_send_buffer_size(there, 4096).unwrap();
        }
        for here in [&console, &card] {
            here.set_nonblocking(true).unwrap();
        }
        let there = [&console_there, &card_there].map(|there| there.try_clone().unwrap().into());
        let peer = Peer {
            ends: Ends { console, card, there },
            reader: FrameReader::new(framing::QEMU_MAX_FRAME),
            said: Vec::new(),
            frames: Vec::new(),
            failed: Arc::default(),
        };
        (peer, console_there.into(), card_there.into())
    }

    /// Goes on with another machine. What the first one did not read is sent to this one.
    fn go_on_with(&mut self, next: Peer) {
        let old = std::mem::replace(&mut self.ends, next.ends);
        self.failed = next.failed;
        for (there, here) in old.there.iter().zip([&self.ends.console, &self.ends.card]) {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = rustix::io::read(there, &mut bytes[..]) {
                write_all(here, &bytes[..count]);
            }
        }
    }

    /// Takes what the console said; whether there was anything.
    pub fn hear(&mut self) -> bool {
        let before = self.said.len();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = rustix::io::read(&self.ends.console, &mut bytes[..]) {
            self.said.extend(&bytes[..count]);
        }
        self.said.len() > before
    }

    /// Takes the frames that came; whether anything did.
    pub fn receive(&mut self) -> bool {
        let mut any = false;
        while let Ok(count @ 1..) = rustix::io::read(&self.ends.card, self.reader.space()) {
            any = true;
            self.reader.filled(count);
            while let Some(frame) = self.reader.next_frame().unwrap() {
                self.frames.push(frame.to_vec());
            }
        }
        any
    }

    /// From now on what comes is read as if a frame began here.
    pub fn begin_anew(&mut self) {
        self.reader = FrameReader::new(framing::QEMU_MAX_FRAME);
    }

    pub fn type_in(&self, text: &[u8]) {
        write_all(&self.ends.console, text);
    }

    pub fn send(&self, frame: &[u8]) {
        write_all(&self.ends.card, &[&framing::header(frame.len())[..], frame].concat());
    }

    pub fn hang_up(&self) {
        self.ends.card.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

fn write_all(socket: &UnixStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until a peer has seen something.
pub fn await_peer(peer: &Mutex<Peer>, mut seen: impl FnMut(&mut Peer) -> bool) {
    loop {
        {
            let mut peer = peer.lock().unwrap();
            peer.hear();
            peer.receive();
            if seen(&mut peer) {
                return;
            }
            assert_eq!(*peer.failed.lock().unwrap(), None);
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

/// A machine with all that is around it.
pub struct Bench {
    pub machine: Hosted,
    pub peer: Arc<Mutex<Peer>>,
    pub told: Receiver<Told>,
    disk: Disk,
    setup: Setup,
    directory: Arc<tempfile::TempDir>,
}

/// What a machine is made of, with a disk and a card.
pub fn parts(kernel: &[u8], directory: &tempfile::TempDir) -> Parts {
    let file = directory.path().join("kernel");
    std::fs::write(&file, kernel).unwrap();
    let mut setup = Setup::new(RAM, "", &file, None).unwrap();
    setup.disks = vec![(SECTORS, false)];
    setup.cards = vec![[2, 0, 0, 0, 0, 1]];
    setup.draw_seed().unwrap();
    load(setup)
}

/// Nearly everything is compiled that is executed twice.
fn load(setup: Setup) -> Parts {
    let mut parts = setup.load().unwrap();
    parts.set_hotness(Some(rv::Hotness { between: 1, seen: 1 }));
    parts
}

impl Bench {
    /// A machine that runs this kernel.
    pub fn start(kernel: &[u8]) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let parts = parts(kernel, &directory);
        let bench = Bench::make(parts, Disk::new(), Arc::new(directory), Hosted::start);
        bench.machine.cont().unwrap();
        bench
    }

    /// One that waits to be given this one's RAM and state, with the same disk.
    pub fn standby(&self) -> Bench {
        let parts = load(self.setup.clone());
        Bench::make(parts, self.disk.clone(), self.directory.clone(), Hosted::standby)
    }

    /// Stops it, brings the standby to where it stands, and lets that go on with this one's peer, which may be about to say
    /// something.
    pub fn move_to(self, standby: Bench) -> Bench {
        let mut peer = self.peer.lock().unwrap();
        // What leaves fills the sockets meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(2));
        std::thread::scope(|scope| {
            // Its frames are read while it stops, as a gate does.
            let stops = scope.spawn(|| self.machine.stop().unwrap());
            while !stops.is_finished() {
                peer.receive();
            }
        });
        peer.receive();
        peer.hear();
        self.carry_to(&standby.machine);
        let state = self.machine.state().unwrap();
        standby.machine.load(&state).unwrap();
        assert_eq!(standby.machine.hash().unwrap(), self.machine.hash().unwrap());
        assert!(standby.machine.state().unwrap() == state);
        self.machine.end();
        let Bench { machine, peer: fresh, told, disk, setup, directory } = standby;
        let fresh = Arc::into_inner(fresh).unwrap().into_inner().unwrap();
        peer.go_on_with(fresh);
        machine.cont().unwrap();
        drop(peer);
        Bench { machine, peer: self.peer, told, disk, setup, directory }
    }

    /// How much the console said that nobody took, of a machine that stands.
    pub fn unsaid(&self) -> u64 {
        u64::from_le_bytes(self.machine.state().unwrap()[1..9].try_into().unwrap())
    }

    fn make(
        parts: Parts,
        disk: Disk,
        directory: Arc<tempfile::TempDir>,
        make: fn(Parts, Wires, rvrun::hosted::Listener) -> Result<Hosted, rvrun::hosted::HostedError>,
    ) -> Bench {
        let (peer, console, card) = Peer::new();
        let (tell, told) = channel();
        let wires = Wires { console, nics: vec![card], disks: vec![Box::new(disk.clone())] };
        let setup = parts.setup().clone();
        let failed = peer.failed.clone();
        let listener = Box::new(move |what: Told| {
            if let Told::Failed(why) = &what {
                *failed.lock().unwrap() = Some(why.clone());
            }
            // Fails only if the test is over.
            drop(tell.send(what));
        });
        let machine = make(parts, wires, listener).unwrap();
        Bench { machine, peer: Arc::new(Mutex::new(peer)), told, disk, setup, directory }
    }

    pub fn await_said(&self, text: &[u8]) {
        await_peer(&self.peer, |peer| peer.said == text);
    }

    /// Carries over what was written since the last time; how many pages.
    pub fn carry_to(&self, other: &Hosted) -> usize {
        let mut pages = Vec::new();
        self.machine.take_dirty(&mut pages);
        let mut bytes = vec![0; pages.len() * PAGE];
        self.machine.copy_out(&pages, &mut bytes).unwrap();
        for (&page, bytes) in pages.iter().zip(bytes.chunks(PAGE)) {
            other.copy_in(page, bytes).unwrap();
        }
        pages.len()
    }
}
