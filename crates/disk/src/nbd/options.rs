//! Owns the data of the client's options. Pure; any bytes may come ("Option types").

use super::wire::Fields;

/// Asks about an export, or asks to use it: INFO and GO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoRequest<'a> {
    pub(super) export: &'a [u8],
    pub(super) wants: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    /// `None` if the data is not as long as it says.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let export = fields.string()?;
        let count = fields.u16()?;
        let wants = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
        fields.end()?;
        Some(Self { export, wants })
    }
}

/// Asks for metadata contexts: LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextRequest<'a> {
    pub(super) export: &'a [u8],
    pub(super) queries: Vec<&'a [u8]>,
}

impl<'a> ContextRequest<'a> {
    /// `None` if the data is not as long as it says.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let export = fields.string()?;
        let count = fields.u32()?;
        // Grows with what is there: the count may lie.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string()?);
        }
        fields.end()?;
        Some(Self { export, queries })
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::MAX_STRING;
    use super::*;
    use proptest::prelude::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..20)
    }

    proptest! {
        #[test]
        fn requests_are_read_as_written_and_not_with_any_byte_less_or_more(
            export in name(),
            wants in prop::collection::vec(any::<u16>(), 0..5),
            queries in prop::collection::vec(name(), 0..5),
        ) {
            let mut data = string(&export);
            data.extend_from_slice(&u16::try_from(wants.len()).unwrap().to_be_bytes());
            data.extend(wants.iter().flat_map(|want| want.to_be_bytes()));
            prop_assert_eq!(InfoRequest::parse(&data[..data.len() - 1]), None);
            prop_assert!(InfoRequest::parse(&[&data[..], &[0]].concat()).is_none());
            prop_assert_eq!(InfoRequest::parse(&data), Some(InfoRequest { export: &export, wants }));

            let mut data = string(&export);
            data.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
            data.extend(queries.iter().flat_map(|query| string(query)));
            prop_assert_eq!(ContextRequest::parse(&data[..data.len() - 1]), None);
            prop_assert!(ContextRequest::parse(&[&data[..], &[0]].concat()).is_none());
            let queries: Vec<&[u8]> = queries.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(ContextRequest::parse(&data), Some(ContextRequest { export: &export, queries }));
        }

        #[test]
        fn garbage_never_panics(data in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..100)) {
            let _ = InfoRequest::parse(&data);
            let _ = ContextRequest::parse(&data);
        }
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        let data = [string(b""), u32::MAX.to_be_bytes().to_vec()].concat();
        assert_eq!(ContextRequest::parse(&data), None);
    }

    #[test]
    fn a_string_over_the_limit_is_refused() {
        let data = [string(&vec![b'a'; MAX_STRING + 1]), vec![0, 0]].concat();
        assert_eq!(InfoRequest::parse(&data), None);
        let data = [string(&vec![b'a'; MAX_STRING]), vec![0, 0]].concat();
        assert!(InfoRequest::parse(&data).is_some());
    }
}
