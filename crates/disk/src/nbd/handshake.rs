//! Owns the negotiation: which options are answered how, and what was agreed. Pure: one option in, answers out.
//!
//! ```text
//!  greeting ──▶ client's flags ──▶ options ⟲ ──GO, EXPORT_NAME──▶ transmission
//!                     │               └───────ABORT, nonsense──▶ end
//!                     └──unknown flags──▶ end
//! ```

use super::options::{ContextRequest, InfoRequest};
use super::wire::{MAGIC, MAX_PAYLOAD, OPTION_MAGIC, put_answer};
use super::wire::{allocation, answer, export_flag, handshake_flag, info, option};

/// What QEMU may assume about good requests: a page.
const PREFERRED_BLOCK: u32 = 4096;
/// A disk's sector. Smaller requests are served too.
const MIN_BLOCK: u32 = 512;

/// What clients are told of the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExportInfo {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) read_only: bool,
}

/// What was agreed on for the transmission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Reads are answered in chunks.
    pub(super) structured: bool,
    /// BLOCK_STATUS may be asked.
    pub(super) allocation: bool,
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another option.
    Option,
    /// Requests.
    Transmission(Agreed),
    /// Nothing: send the answer if there is one, and close.
    End,
}

/// One client's negotiation.
#[derive(Debug)]
pub(super) struct Handshake<'a> {
    export: &'a ExportInfo,
    fixed: bool,
    no_zeroes: bool,
    agreed: Agreed,
}

/// What the server says first.
pub(super) fn greeting() -> [u8; 18] {
    let mut out = [0; 18];
    out[..8].copy_from_slice(&MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    out[16..].copy_from_slice(&flags.to_be_bytes());
    out
}

impl<'a> Handshake<'a> {
    /// Begins with the client's flags; `None` if it sets one that we do not know, which means to end.
    pub(super) fn new(export: &'a ExportInfo, flags: u32) -> Option<Self> {
        let has = |flag: u16| flags & u32::from(flag) != 0;
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        (flags & !known == 0).then(|| Self {
            export,
            fixed: has(handshake_flag::FIXED_NEWSTYLE),
            no_zeroes: has(handshake_flag::NO_ZEROES),
            agreed: Agreed::default(),
        })
    }

    /// Answers one option.
    pub(super) fn option(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        match kind {
            option::EXPORT_NAME => return self.export_name(data, out),
            // Not fixed newstyle: a client that cannot take an answer to an option.
            _ if !self.fixed => return Next::End,
            option::ABORT => {
                put_answer(out, kind, answer::ACK, &[]);
                return Next::End;
            }
            option::INFO | option::GO => return self.info(kind, data, out),
            option::LIST if data.is_empty() => {
                let name = self.export.name.as_bytes();
                let len = u32::try_from(name.len()).expect("names are short");
                put_answer(out, kind, answer::SERVER, &[&len.to_be_bytes(), name].concat());
                put_answer(out, kind, answer::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.agreed.structured = true;
                put_answer(out, kind, answer::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => invalid(kind, "this option has no data", out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(kind, data, out),
            // STARTTLS too: without TLS it is just unknown ("NBD_OPT_STARTTLS").
            _ => put_answer(out, kind, answer::ERR_UNSUP, b"this server does not know the option"),
        }
        Next::Option
    }

    /// Answers an option whose data was too long to be read.
    pub(super) fn oversize(&self, kind: u32, out: &mut Vec<u8>) -> Next {
        if kind == option::EXPORT_NAME || !self.fixed {
            return Next::End;
        }
        put_answer(out, kind, answer::ERR_TOO_BIG, b"the option's data is too long");
        Next::Option
    }

    /// The old way to begin, which has no way to say no but to close.
    fn export_name(&self, data: &[u8], out: &mut Vec<u8>) -> Next {
        if !self.is_ours(data) {
            return Next::End;
        }
        out.extend_from_slice(&self.export.size.to_be_bytes());
        out.extend_from_slice(&self.flags().to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Next::Transmission(self.agreed)
    }

    fn info(&self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Some(request) = InfoRequest::parse(data) else {
            invalid(kind, "the data is not as long as it says", out);
            return Next::Option;
        };
        if !self.is_ours(request.export) {
            put_answer(out, kind, answer::ERR_UNKNOWN, b"there is no export of this name");
            return Next::Option;
        }
        let put = |out: &mut Vec<u8>, what: u16, fields: &[&[u8]]| {
            put_answer(out, kind, answer::INFO, &[&what.to_be_bytes(), &fields.concat()[..]].concat());
        };
        let (size, flags) = (self.export.size.to_be_bytes(), self.flags().to_be_bytes());
        put(out, info::EXPORT, &[&size, &flags]);
        if request.wants.contains(&info::NAME) {
            put(out, info::NAME, &[self.export.name.as_bytes()]);
        }
        if request.wants.contains(&info::BLOCK_SIZE) {
            let sizes = [MIN_BLOCK, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
            put(out, info::BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        }
        put_answer(out, kind, answer::ACK, &[]);
        if kind == option::GO { Next::Transmission(self.agreed) } else { Next::Option }
    }

    fn contexts(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) {
        let set = kind == option::SET_META_CONTEXT;
        if set {
            // Each attempt replaces what was chosen before, also one that fails.
            self.agreed.allocation = false;
        }
        if !self.agreed.structured {
            return invalid(kind, "contexts need structured replies: negotiate those first", out);
        }
        let Some(request) = ContextRequest::parse(data) else {
            return invalid(kind, "the data is not as long as it says", out);
        };
        if !self.is_ours(request.export) {
            return put_answer(out, kind, answer::ERR_UNKNOWN, b"there is no export of this name");
        }
        let asked = |query: &&[u8]| *query == allocation::NAME || (!set && *query == b"base:");
        let all = !set && request.queries.is_empty();
        if all || request.queries.iter().any(asked) {
            let id = if set { allocation::ID } else { 0 };
            put_answer(out, kind, answer::META_CONTEXT, &[&id.to_be_bytes(), allocation::NAME].concat());
            self.agreed.allocation |= set;
        }
        put_answer(out, kind, answer::ACK, &[]);
    }

    /// The empty name is the default export: there is only one here.
    fn is_ours(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn flags(&self) -> u16 {
        let mut flags = export_flag::HAS_FLAGS | export_flag::SEND_FLUSH | export_flag::SEND_FUA;
        // All connections write into one file: a flush of it covers what any of them wrote.
        flags |= export_flag::CAN_MULTI_CONN;
        flags |= if self.export.read_only {
            export_flag::READ_ONLY
        } else {
            export_flag::SEND_TRIM | export_flag::SEND_WRITE_ZEROES
        };
        if self.agreed.structured {
            flags |= export_flag::SEND_DF;
        }
        flags
    }
}

fn invalid(kind: u32, why: &str, out: &mut Vec<u8>) {
    put_answer(out, kind, answer::ERR_INVALID, why.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::wire::Fields;
    use super::*;
    use proptest::prelude::*;

    fn export() -> ExportInfo {
        ExportInfo { name: "vda".into(), size: 1 << 20, read_only: false }
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    /// The kinds of the answers, and their data.
    fn answers(out: &[u8], option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut fields = Fields(out);
        let mut found = Vec::new();
        while !fields.0.is_empty() {
            assert_eq!(fields.u64(), Some(0x0003_e889_0455_65a9));
            assert_eq!(fields.u32(), Some(option));
            let (kind, len) = (fields.u32().unwrap(), fields.u32().unwrap() as usize);
            let (data, rest) = fields.0.split_at(len);
            found.push((kind, data.to_vec()));
            fields.0 = rest;
        }
        found
    }

    fn ask(handshake: &mut Handshake<'_>, option: u32, data: &[u8]) -> (Vec<(u32, Vec<u8>)>, Next) {
        let mut out = Vec::new();
        let next = handshake.option(option, data, &mut out);
        (answers(&out, option), next)
    }

    fn kinds(handshake: &mut Handshake<'_>, option: u32, data: &[u8]) -> Vec<u32> {
        ask(handshake, option, data).0.into_iter().map(|(kind, _)| kind).collect()
    }

    fn context_query(queries: &[&[u8]]) -> Vec<u8> {
        let count = u32::try_from(queries.len()).unwrap().to_be_bytes().to_vec();
        let queries = queries.iter().flat_map(|query| string(query));
        [string(b"vda"), count, queries.collect()].concat()
    }

    #[test]
    fn the_client_s_flags_decide() {
        let export = export();
        assert!(Handshake::new(&export, 4).is_none());
        assert!(Handshake::new(&export, 1 << 16).is_none());
        let mut old = Handshake::new(&export, 0).unwrap();
        assert_eq!(ask(&mut old, option::LIST, b""), (vec![], Next::End));
    }

    #[test]
    fn the_old_way_to_begin() {
        let export = export();
        for (flags, len) in [(0, 134), (1, 134), (2, 10), (3, 10)] {
            let mut handshake = Handshake::new(&export, flags).unwrap();
            let mut out = Vec::new();
            let next = handshake.option(option::EXPORT_NAME, b"vda", &mut out);
            assert_eq!((next, out.len()), (Next::Transmission(Agreed::default()), len));
            assert_eq!(out[..8], (1_u64 << 20).to_be_bytes());
            out.clear();
            assert_eq!(handshake.option(option::EXPORT_NAME, b"vdb", &mut out), Next::End);
            assert_eq!(out, b"");
        }
    }

    #[test]
    fn go_tells_what_was_asked_and_begins() {
        let export = export();
        let mut handshake = Handshake::new(&export, 3).unwrap();
        let data = [string(b""), vec![0, 2, 0, 1, 0, 3]].concat();
        let (answers, next) = ask(&mut handshake, option::GO, &data);
        let kinds: Vec<u32> = answers.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [answer::INFO, answer::INFO, answer::INFO, answer::ACK]);
        assert_eq!(answers[0].1, [&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &[0x01, 0x6d]].concat());
        assert_eq!(answers[1].1, b"\0\x01vda");
        assert_eq!(answers[2].1, [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]);
        assert_eq!(next, Next::Transmission(Agreed::default()));
        let info = ask(&mut handshake, option::INFO, &[string(b"vda"), vec![0, 0]].concat());
        assert_eq!((info.0.len(), info.1), (2, Next::Option));
        let unknown = [string(b"vdb"), vec![0, 0]].concat();
        assert_eq!(
            kinds_and_next(&mut handshake, option::GO, &unknown),
            (vec![answer::ERR_UNKNOWN], Next::Option)
        );
        assert_eq!(
            kinds_and_next(&mut handshake, option::GO, &data[1..]),
            (vec![answer::ERR_INVALID], Next::Option)
        );
    }

    fn kinds_and_next(handshake: &mut Handshake<'_>, option: u32, data: &[u8]) -> (Vec<u32>, Next) {
        let (answers, next) = ask(handshake, option, data);
        (answers.into_iter().map(|(kind, _)| kind).collect(), next)
    }

    #[test]
    fn contexts_need_structured_replies_and_a_new_choice_replaces_the_old() {
        let export = export();
        let mut handshake = Handshake::new(&export, 3).unwrap();
        let good = context_query(&[b"x:y", b"base:allocation"]);
        let set = option::SET_META_CONTEXT;
        assert_eq!(kinds(&mut handshake, set, &good), [answer::ERR_INVALID]);
        assert_eq!(kinds(&mut handshake, option::STRUCTURED_REPLY, b"x"), [answer::ERR_INVALID]);
        assert_eq!(kinds(&mut handshake, option::STRUCTURED_REPLY, b""), [answer::ACK]);
        let chosen = [answer::META_CONTEXT, answer::ACK];
        for queries in [&[][..], &[&b"base:"[..]], &[allocation::NAME]] {
            let data = context_query(queries);
            assert_eq!(kinds(&mut handshake, option::LIST_META_CONTEXT, &data), chosen, "{queries:?}");
            assert!(!handshake.agreed.allocation, "listing chose");
        }
        for (data, expected, agreed) in [
            (&good, &chosen[..], true),
            (&context_query(&[]), &[answer::ACK], false),
            (&good, &chosen, true),
            (&context_query(&[b"base:"]), &[answer::ACK], false),
            (&good, &chosen, true),
            (&good[..9].to_vec(), &[answer::ERR_INVALID], false),
        ] {
            assert_eq!(kinds(&mut handshake, set, data), expected);
            assert_eq!(handshake.agreed, Agreed { structured: true, allocation: agreed });
        }
    }

    #[test]
    fn unknown_and_oversize_options_are_answered() {
        let export = export();
        let mut handshake = Handshake::new(&export, 3).unwrap();
        for option in [0, 4, 5, 11, u32::MAX] {
            assert_eq!(kinds(&mut handshake, option, b"data"), [answer::ERR_UNSUP], "{option}");
        }
        let mut out = Vec::new();
        assert_eq!(handshake.oversize(option::LIST, &mut out), Next::Option);
        assert_eq!(answers(&out, option::LIST)[0].0, answer::ERR_TOO_BIG);
        assert_eq!(handshake.oversize(option::EXPORT_NAME, &mut out), Next::End);
        assert_eq!(ask(&mut handshake, option::ABORT, b""), (vec![(answer::ACK, vec![])], Next::End));
        let (list, _) = ask(&mut handshake, option::LIST, b"");
        assert_eq!(list, [(answer::SERVER, string(b"vda")), (answer::ACK, vec![])]);
    }

    #[test]
    fn a_read_only_export_offers_no_changes() {
        let export = ExportInfo { read_only: true, ..export() };
        assert_eq!(Handshake::new(&export, 3).unwrap().flags(), 0x010f);
    }

    proptest! {
        #[test]
        fn any_options_are_answered_by_whole_answers(
            flags in 0u32..4,
            options in prop::collection::vec((0u32..13, prop::collection::vec(any::<u8>(), 0..60)), 0..10),
        ) {
            let export = export();
            let mut handshake = Handshake::new(&export, flags).unwrap();
            for (option, data) in options {
                let mut out = Vec::new();
                let next = handshake.option(option, &data, &mut out);
                if option != option::EXPORT_NAME {
                    let answered = answers(&out, option);
                    prop_assert_eq!(answered.is_empty(), flags & 1 == 0);
                    let refused = answered.iter().any(|(kind, _)| kind >> 31 == 1);
                    prop_assert!(next == Next::Option || !refused, "it ends with an error");
                }
            }
        }
    }
}
