//! Owns how many connections may be half open: taken, and not yet led to a VM.
//!
//! Each costs a thread for as long as it may take to say who it is. One address may not take the places of all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// All together.
pub const MAX: usize = 64;
/// From one address.
pub const MAX_OF_ONE: usize = 16;

type Taken = BTreeMap<IpAddr, usize>;

/// The places.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<Taken>>);

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    of: IpAddr,
}

impl Places {
    fn with<T>(&self, act: impl FnOnce(&mut Taken) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for a connection from this address; none if there are too many.
    pub fn take(&self, of: IpAddr) -> Option<Place> {
        self.with(|taken| {
            let (all, one) = (taken.values().sum::<usize>(), taken.get(&of).copied().unwrap_or(0));
            if all >= MAX || one >= MAX_OF_ONE {
                return None;
            }
            taken.insert(of, one + 1);
            Some(Place { places: self.clone(), of })
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.with(|taken| match taken.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.of)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_some_all_take_more_and_what_is_given_back_is_free() {
        let places = Places::default();
        let take = |last: u8| places.take(IpAddr::from([10, 0, 0, last]));
        let mut of_one: Vec<_> = (0..MAX_OF_ONE).map(|_| take(1).expect("a place")).collect();
        assert!(take(1).is_none(), "one address has its share");
        let mut of_others = Vec::new();
        for last in 2..=200 {
            of_others.extend(take(last));
        }
        assert_eq!(of_one.len() + of_others.len(), MAX);
        of_one.pop();
        assert!(take(2).is_some() && take(1).is_some());
        drop((of_one, of_others));
        assert!(places.0.lock().expect("locked").is_empty(), "nothing is remembered of those who went");
    }
}
