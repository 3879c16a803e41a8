//! A storage in memory that loses what a real one may lose.
//!
//! The fault model: until a file is synced, each 512-byte sector of each write may reach the platter or not, or only
//! its first bytes may, on its own and in any order; until the directory is synced, each new, removed or renamed name may or may not have come
//! about, in order. A synced byte stays, unless a test lets it rot. From the operation on that a test names,
//! every operation fails until the power is back. A write that fails may have reached the platter in part.

use disk::journal::Storage;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

const SECTOR: usize = 512;

/// A small generator: a run is its seed.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

#[derive(Debug, Clone, Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Naming {
    Create(String, usize),
    Remove(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct State {
    /// Contents by number, so that a renamed file keeps its own.
    contents: Vec<Content>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    operations: u64,
    fails_from: Option<u64>,
    lies: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FaultyStorage(Mutex<State>);

fn change(names: &mut BTreeMap<String, usize>, naming: &Naming) {
    match naming {
        Naming::Create(name, at) => {
            names.insert(name.clone(), *at);
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
        Naming::Rename(from, to) => {
            if let Some(at) = names.remove(from) {
                names.insert(to.clone(), at);
            }
        }
    }
}

impl FaultyStorage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Plants a mistake: a sync says it is done and does nothing.
    pub fn let_syncs_lie(&self) {
        self.state().lies = true;
    }

    /// From the operation with this number on, counted from now, everything fails.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.state();
        state.fails_from = Some(state.operations + operations);
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The program was killed and starts again: nothing is lost.
    pub fn restart(&self) {
        self.state().fails_from = None;
    }

    /// The power fails and comes back: what was not synced is there in part.
    pub fn lose_power(&self, dice: &mut Dice) {
        let mut state = self.state();
        let kept = dice.below(state.namings.len() as u64 + 1) as usize;
        let mut names = state.durable_names.clone();
        state.namings[..kept].iter().for_each(|naming| change(&mut names, naming));
        state.namings.clear();
        (state.durable_names, state.names) = (names.clone(), names);
        state.fails_from = None;
        for content in &mut state.contents {
            let mut sectors = Vec::new();
            for (offset, bytes) in std::mem::take(&mut content.pending) {
                let parts = bytes.chunks(SECTOR).enumerate();
                sectors.extend(parts.map(|(at, part)| (offset + at * SECTOR, part.to_vec())));
            }
            // Sometimes nearly all or nearly nothing arrives: single holes are the hard cases.
            let odds = [1, 8, 15][dice.below(3) as usize];
            sectors.retain(|_| dice.below(16) < odds);
            for at in (1..sectors.len()).rev() {
                sectors.swap(at, dice.below(at as u64 + 1) as usize);
            }
            for (at, mut part) in sectors {
                if dice.below(4) == 0 {
                    part.truncate(dice.below(part.len() as u64 + 1) as usize);
                }
                content.durable[at..at + part.len()].copy_from_slice(&part);
            }
            content.current = content.durable.clone();
        }
    }

    /// Flips a bit of a file, also of what is durable.
    pub fn rot(&self, name: &str, at: usize, bit: u8) {
        let mut state = self.state();
        let number = state.names[name];
        let content = &mut state.contents[number];
        for bytes in [&mut content.durable, &mut content.current] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// What a program that starts now would read of the file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.contents[state.names[name]].current.clone()
    }

    /// A storage that durably holds these files.
    pub fn holding(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let storage = Self::default();
        for (name, bytes) in files {
            storage.create(name, bytes.len() as u64).unwrap();
            storage.write_at(name, 0, bytes).unwrap();
            storage.sync(name).unwrap();
        }
        storage.sync_dir().unwrap();
        storage
    }

    fn operation(&self) -> (MutexGuard<'_, State>, io::Result<()>) {
        let mut state = self.state();
        state.operations += 1;
        let fails = state.fails_from.is_some_and(|from| state.operations > from);
        let result = if fails { Err(io::Error::other("the power is off")) } else { Ok(()) };
        (state, result)
    }

    fn found(&self, name: &str) -> io::Result<(MutexGuard<'_, State>, usize)> {
        let (state, result) = self.operation();
        result?;
        let number = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((state, number))
    }

    fn name(&self, naming: Naming) -> io::Result<()> {
        let (mut state, result) = self.operation();
        result?;
        change(&mut state.names, &naming);
        state.namings.push(naming);
        Ok(())
    }
}

impl Storage for FaultyStorage {
    fn create(&self, name: &str, len: u64) -> io::Result<()> {
        let zeroes = vec![0; len as usize];
        let number = {
            let mut state = self.state();
            let content = Content { durable: zeroes.clone(), current: zeroes, pending: Vec::new() };
            state.contents.push(content);
            state.contents.len() - 1
        };
        self.name(Naming::Create(name.to_owned(), number))
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let number = *self.state().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let (mut state, result) = self.operation();
        let at = offset as usize;
        assert!(at.is_multiple_of(SECTOR) || bytes.len() < SECTOR, "a sector is written in two pieces");
        let content = &mut state.contents[number];
        content.current[at..at + bytes.len()].copy_from_slice(bytes);
        content.pending.push((at, bytes.to_vec()));
        result
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let (mut state, number) = self.found(name)?;
        if !state.lies {
            let content = &mut state.contents[number];
            content.durable = content.current.clone();
            content.pending.clear();
        }
        Ok(())
    }

    fn read_at(&self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (state, number) = self.found(name)?;
        let from = state.contents[number].current.get(offset as usize..).unwrap_or_default();
        let part = from.get(..bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(part);
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let (state, number) = self.found(name)?;
        Ok(state.contents[number].current.len() as u64)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.name(Naming::Remove(name.to_owned()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.name(Naming::Rename(from.to_owned(), to.to_owned()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let (state, result) = self.operation();
        result.map(|()| state.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let (mut state, result) = self.operation();
        result?;
        if !state.lies {
            state.durable_names = state.names.clone();
            state.namings.clear();
        }
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        name.to_owned()
    }
}
