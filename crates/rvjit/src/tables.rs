//! Owns the tables by which pieces find each other: for each place of each page the code that begins there.

use rv::PLACES;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// For each place of a page the address of the code that begins there.
type Entries = [AtomicUsize; PLACES];

/// The tables of all pages. Machine code reads them: a place without a piece holds the address of code that goes back.
pub(crate) struct Tables {
    /// For each page of RAM the address of its entries, or of `none`.
    pages: Vec<usize>,
    held: Vec<Option<Arc<Entries>>>,
    none: Arc<Entries>,
    back: usize,
}

fn address(entries: &Arc<Entries>) -> usize {
    Arc::as_ptr(entries).expose_provenance()
}

fn entries(code: usize) -> Arc<Entries> {
    Arc::new(std::array::from_fn(|_| AtomicUsize::new(code)))
}

impl Tables {
    /// Without pieces; `back` is the address of the code that goes back.
    pub fn new(back: usize) -> Tables {
        Tables { pages: Vec::new(), held: Vec::new(), none: entries(back), back }
    }

    /// For each page the address of its entries.
    pub fn pages(&self) -> &[usize] {
        &self.pages
    }

    /// The address of a page's entries, of which there are none before.
    pub fn of_page(&mut self, page: usize) -> usize {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, address(&self.none));
            self.held.resize(page + 1, None);
        }
        let back = self.back;
        let held = self.held[page].get_or_insert_with(|| entries(back));
        self.pages[page] = address(held);
        self.pages[page]
    }

    /// Puts a piece into its place.
    pub fn put(&mut self, page: usize, place: usize, code: usize) {
        self.of_page(page);
        if let Some(Some(held)) = self.held.get(page) {
            held[place].store(code, Ordering::Relaxed);
        }
    }

    /// The piece at a place.
    pub fn get(&self, page: usize, place: usize) -> Option<usize> {
        let code = self.held.get(page)?.as_ref()?.get(place)?.load(Ordering::Relaxed);
        (code != self.back).then_some(code)
    }

    /// Takes a page's pieces away. Its entries stay where they are: code that nobody enters any more knows the address.
    pub fn forget(&mut self, page: usize) {
        if let Some(Some(held)) = self.held.get(page) {
            held.iter().for_each(|entry| entry.store(self.back, Ordering::Relaxed));
        }
    }
}
