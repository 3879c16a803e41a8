//! Owns the judgement of requests: what is asked, and whether it may be. Pure ("Request types", "Error values").

use super::handshake::{Agreed, ExportInfo};
use super::wire::{Error, MAX_PAYLOAD, Request, command_flag, request};

/// A request that may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Answered in one chunk, whether the client asks for that or not.
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Trim {
        fua: bool,
    },
    WriteZeroes {
        no_hole: bool,
        fua: bool,
    },
    BlockStatus {
        /// Only the first extent is wanted.
        one: bool,
    },
}

impl Command {
    /// Judges `request`. DISC is no command: it has no answer.
    pub(super) fn judge(request: &Request, export: &ExportInfo, agreed: Agreed) -> Result<Self, Error> {
        let command = Self::parse(request.kind, request.flags, agreed)?;
        let changes = matches!(command, Self::Write { .. } | Self::Trim { .. } | Self::WriteZeroes { .. });
        if changes && export.read_only {
            return Err(Error::NotPermitted);
        }
        command.check_len(request)?;
        let end = request.offset.checked_add(u64::from(request.len));
        if end.is_some_and(|end| end <= export.size) {
            return Ok(command);
        }
        match command {
            Self::Write { .. } | Self::WriteZeroes { .. } => Err(Error::NoSpace),
            _ => Err(Error::Invalid),
        }
    }

    fn parse(kind: u16, flags: u16, agreed: Agreed) -> Result<Self, Error> {
        let has = |flag| flags & flag != 0;
        let fua = has(command_flag::FUA);
        let (command, known) = match kind {
            request::READ => {
                let known = if agreed.structured { command_flag::DF } else { 0 };
                (Self::Read, known)
            }
            request::WRITE => (Self::Write { fua }, 0),
            request::FLUSH => (Self::Flush, 0),
            request::TRIM => (Self::Trim { fua }, 0),
            request::WRITE_ZEROES => {
                (Self::WriteZeroes { no_hole: has(command_flag::NO_HOLE), fua }, command_flag::NO_HOLE)
            }
            request::BLOCK_STATUS if agreed.allocation => {
                (Self::BlockStatus { one: has(command_flag::REQ_ONE) }, command_flag::REQ_ONE)
            }
            _ => return Err(Error::Invalid),
        };
        // FUA may stand at every command ("Command flags").
        if flags & !(known | command_flag::FUA) == 0 { Ok(command) } else { Err(Error::Invalid) }
    }

    fn check_len(self, request: &Request) -> Result<(), Error> {
        let good = match self {
            // Only what travels is limited: zeroes and discards do not.
            Self::Read | Self::Write { .. } => request.len <= MAX_PAYLOAD,
            Self::Flush => request.len == 0 && request.offset == 0,
            Self::BlockStatus { .. } => request.len > 0,
            Self::Trim { .. } | Self::WriteZeroes { .. } => true,
        };
        if good { Ok(()) } else { Err(Error::Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 30;
    const FULL: Agreed = Agreed { structured: true, allocation: true };
    const PLAIN: Agreed = Agreed { structured: false, allocation: false };

    fn judge(
        kind: u16,
        flags: u16,
        offset: u64,
        len: u32,
        read_only: bool,
        agreed: Agreed,
    ) -> Result<Command, Error> {
        let export = ExportInfo { name: String::new(), size: SIZE, read_only };
        Command::judge(&Request { flags, kind, cookie: 0, offset, len }, &export, agreed)
    }

    #[test]
    fn ends_of_the_disk() {
        for (kind, error) in [
            (request::READ, Error::Invalid),
            (request::TRIM, Error::Invalid),
            (request::BLOCK_STATUS, Error::Invalid),
            (request::WRITE, Error::NoSpace),
            (request::WRITE_ZEROES, Error::NoSpace),
        ] {
            let at = |offset| judge(kind, 0, offset, 512, false, FULL);
            assert!(at(SIZE - 512).is_ok(), "{kind}");
            for offset in [SIZE - 511, SIZE, u64::MAX, u64::MAX - 511] {
                assert_eq!(at(offset), Err(error), "{kind} {offset}");
            }
        }
    }

    #[test]
    fn only_what_travels_is_limited() {
        for kind in [request::READ, request::WRITE] {
            assert!(judge(kind, 0, 0, MAX_PAYLOAD, false, FULL).is_ok());
            assert_eq!(judge(kind, 0, 0, MAX_PAYLOAD + 1, false, FULL), Err(Error::Invalid));
        }
        for kind in [request::TRIM, request::WRITE_ZEROES, request::BLOCK_STATUS] {
            assert!(judge(kind, 0, 0, 1 << 30, false, FULL).is_ok());
        }
    }

    #[test]
    fn a_read_only_disk_is_not_changed() {
        for kind in [request::WRITE, request::TRIM, request::WRITE_ZEROES] {
            assert_eq!(judge(kind, 0, 0, 512, true, FULL), Err(Error::NotPermitted));
        }
        assert!(judge(request::FLUSH, 0, 0, 0, true, FULL).is_ok());
    }

    #[test]
    fn flags_stand_only_where_they_mean_something() {
        let all = 0..16;
        let allowed = |kind, len, agreed| -> Vec<u16> {
            all.clone().filter(|bit| judge(kind, 1 << bit, 0, len, false, agreed).is_ok()).collect()
        };
        assert_eq!(allowed(request::READ, 512, FULL), [0, 2]);
        assert_eq!(allowed(request::READ, 512, PLAIN), [0]);
        assert_eq!(allowed(request::WRITE, 512, FULL), [0]);
        assert_eq!(allowed(request::FLUSH, 0, FULL), [0]);
        assert_eq!(allowed(request::TRIM, 512, FULL), [0]);
        assert_eq!(allowed(request::WRITE_ZEROES, 512, FULL), [0, 1]);
        assert_eq!(allowed(request::BLOCK_STATUS, 512, FULL), [0, 3]);
        assert_eq!(allowed(request::BLOCK_STATUS, 512, PLAIN), [0; 0]);
    }

    proptest! {
        #[test]
        fn what_may_be_done_is_inside(kind in 0u16..9, flags: u16, offset: u64, len: u32, read_only: bool) {
            if judge(kind, flags, offset, len, read_only, FULL).is_ok() {
                prop_assert!(offset + u64::from(len) <= SIZE);
                prop_assert!(!read_only || matches!(kind, request::READ | request::FLUSH | request::BLOCK_STATUS));
            }
        }
    }
}
