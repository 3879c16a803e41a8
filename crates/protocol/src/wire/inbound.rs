//! Owns a session's two directions: numbering of what goes out, identity and order of what comes in.

use super::header::{Header, Kind, WireError};
use crate::ids::{Epoch, Session, Term, VmId};
use xxhash_rust::xxh3::xxh3_64;

/// Checks that every frame of a connection belongs to its session, once and in order.
#[derive(Debug, Clone)]
pub struct Inbound {
    vm: VmId,
    term: Term,
    session: Session,
    next: u64,
}

impl Inbound {
    /// The incoming direction of a session.
    #[must_use]
    pub fn new(vm: VmId, term: Term, session: Session) -> Self {
        Self { vm, term, session, next: 0 }
    }

    /// The frames before this one were taken elsewhere.
    pub fn begin_at(&mut self, next: u64) {
        self.next = next;
    }

    /// Takes the next frame's header.
    ///
    /// # Errors
    /// If it is of another VM, an older term, another session, or not the next in order. The connection must
    /// then be given up: nothing that follows can be trusted to be whole.
    pub fn check(&mut self, header: &Header) -> Result<(), WireError> {
        self.belongs(header)?;
        match header.seq.cmp(&self.next) {
            core::cmp::Ordering::Less => Err(WireError::Replay { got: header.seq, want: self.next }),
            core::cmp::Ordering::Greater => Err(WireError::Gap { got: header.seq, want: self.next }),
            core::cmp::Ordering::Equal => {
                self.next += 1;
                Ok(())
            }
        }
    }

    /// Whether a frame is of this session at all; where it comes by one of several paths its order is checked later.
    ///
    /// # Errors
    /// If it is of another VM, an older term or another session.
    pub fn belongs(&self, header: &Header) -> Result<(), WireError> {
        if header.vm != self.vm {
            return Err(WireError::Vm { got: header.vm, want: self.vm });
        }
        if header.term < self.term {
            return Err(WireError::StaleTerm { got: header.term, known: self.term });
        }
        if header.term != self.term || header.session != self.session {
            return Err(WireError::Session { term: header.term, session: header.session });
        }
        Ok(())
    }
}

/// Numbers and seals the frames that a session sends.
#[derive(Debug, Clone)]
pub struct Outbound {
    vm: VmId,
    term: Term,
    session: Session,
    next: u64,
}

impl Outbound {
    /// The outgoing direction of a session.
    #[must_use]
    pub fn new(vm: VmId, term: Term, session: Session) -> Self {
        Self { vm, term, session, next: 0 }
    }

    /// The header for the next frame.
    ///
    /// # Panics
    /// If the body is longer than a frame may be: an error of the caller.
    pub fn seal(&mut self, kind: Kind, epoch: Epoch, body: &[u8]) -> Header {
        assert!(body.len() <= super::MAX_BODY_LEN as usize, "{kind:?} body of {} bytes", body.len());
        let seq = self.next;
        self.next += 1;
        Header {
            kind,
            vm: self.vm,
            term: self.term,
            session: self.session,
            seq,
            epoch,
            len: u32::try_from(body.len()).unwrap_or(u32::MAX),
            body_sum: xxh3_64(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Outbound, Inbound) {
        let (vm, term, session) = (VmId(5), Term(3), Session(2));
        (Outbound::new(vm, term, session), Inbound::new(vm, term, session))
    }

    #[test]
    fn frames_pass_once_and_in_order() {
        let (mut out, mut inbound) = pair();
        let first = out.seal(Kind::Heartbeat, Epoch(0), b"a");
        let second = out.seal(Kind::Heartbeat, Epoch(0), b"b");
        let third = out.seal(Kind::Heartbeat, Epoch(0), b"c");
        assert_eq!(inbound.check(&first), Ok(()));
        assert_eq!(inbound.check(&first), Err(WireError::Replay { got: 0, want: 1 }));
        assert_eq!(inbound.check(&third), Err(WireError::Gap { got: 2, want: 1 }));
        assert_eq!(inbound.check(&second), Ok(()));
    }

    #[test]
    fn another_vm_an_older_term_and_another_session_are_refused() {
        let (mut out, mut inbound) = pair();
        let good = out.seal(Kind::Heartbeat, Epoch(0), b"");
        let vm = Header { vm: VmId(6), ..good };
        let old = Header { term: Term(2), ..good };
        let newer = Header { term: Term(4), ..good };
        let session = Header { session: Session(9), ..good };
        assert!(matches!(inbound.check(&vm), Err(WireError::Vm { .. })));
        assert!(matches!(inbound.check(&old), Err(WireError::StaleTerm { .. })));
        assert!(matches!(inbound.check(&newer), Err(WireError::Session { .. })));
        assert!(matches!(inbound.check(&session), Err(WireError::Session { .. })));
        assert_eq!(inbound.check(&good), Ok(()));
    }
}
