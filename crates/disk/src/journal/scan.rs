//! Owns the reading of a journal after a crash: feeds what stands in the files to [`protocol::journal::Scan`].

use super::error::JournalError;
use super::layout::{BLOCK, HEADER_LEN_U64, Layout, MARK_SLOTS, MARKS, SECTOR, behind, failed};
use super::storage::Storage;
use protocol::journal::recovery::Found;
use protocol::journal::{Chain, HEADER_LEN, Header, Identity, Kind, RecordError, Scan, body};
use std::collections::BTreeMap;

/// Bytes read at a time by the search behind the log's end.
const SEARCH: u64 = 1 << 20;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the segment.
    pub(super) segment: u64,
    /// Byte in it.
    pub(super) at: u64,
}

/// The segments that belong to the log, by number: sequence number of the first record of each.
pub(super) type Firsts = BTreeMap<u64, u64>;

/// A place and the state of the walk there.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    pub(super) place: Place,
    pub(super) chain: Chain,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) scan: Scan,
    /// Where the newest mark stands, to write the next one to the other place.
    pub(super) mark_slot: u64,
    pub(super) firsts: Firsts,
    pub(super) begin: Option<Beginning>,
    /// A number above those of all segments.
    pub(super) next_segment: u64,
    /// The first segment of another journal or version, else the one where the walk ended, with the byte.
    pub(super) suspect: Option<(String, u64)>,
}

/// Reads the record at a place of a file; its body goes to `body`.
pub(super) fn read_record<S: Storage>(
    storage: &S,
    file: &str,
    at: u64,
    len: u64,
    identity: Identity,
    body: &mut Vec<u8>,
) -> Result<Result<Header, RecordError>, JournalError> {
    let io = |source| failed(storage, "read", file, source);
    if at + HEADER_LEN_U64 > len {
        return Ok(Err(RecordError::Magic));
    }
    let mut head = [0; HEADER_LEN];
    storage.read_at(file, at, &mut head).map_err(io)?;
    let header = match Header::decode(&head, identity) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    if at + HEADER_LEN_U64 + u64::from(header.len) > len {
        return Ok(Err(RecordError::TooLong { len: header.len }));
    }
    body.resize(header.len as usize, 0);
    storage.read_at(file, at + HEADER_LEN_U64, body).map_err(io)?;
    Ok(header.check_body(body).map(|()| header))
}

/// A head block: its header and the segment's number.
fn read_head<S: Storage>(
    storage: &S,
    layout: Layout,
    file: &str,
    identity: Identity,
) -> Result<Result<(Header, u64), RecordError>, JournalError> {
    let mut body = Vec::new();
    let read = read_record(storage, file, 0, layout.segment_len(), identity, &mut body)?;
    let read = read.and_then(|header| match header.kind {
        Kind::Head => Ok((header, body::segment_number(&body)?)),
        _ => Err(RecordError::Body("no segment head")),
    });
    let misplaced = read.as_ref().is_ok_and(|&(_, number)| layout.file(number) != file);
    Ok(if misplaced { Err(RecordError::Body("the head of another segment")) } else { read })
}

/// Reads the whole journal.
pub(super) fn scan<S: Storage>(
    storage: &S,
    layout: Layout,
    identity: Identity,
) -> Result<Scanned, JournalError> {
    let mut scan = Scan::new();
    let mark_slot = read_marks(storage, layout, identity, &mut scan)?;
    let (mut heads, mut suspect) = (Vec::new(), None);
    for file in layout.files() {
        let read = read_head(storage, layout, &file, identity)?;
        scan.head(&read.clone().map(|(header, _)| header));
        if suspect.is_none() && Found::of(&read) > Found::Whole {
            suspect = Some((file, 0));
        }
        heads.extend(read);
    }
    let next_segment = heads.iter().map(|&(_, number)| number.saturating_add(1)).max().unwrap_or(0);
    heads.retain(|(header, _)| header.life == scan.life());
    heads.sort_by_key(|&(_, number)| number);
    let start = heads.iter().rposition(|(header, _)| scan.may_begin(header));
    let firsts: Firsts = start
        .map(|start| heads[start..].iter().map(|&(header, number)| (number, header.seq)).collect())
        .unwrap_or_default();
    let begin = start.map(|start| {
        let (header, segment) = heads[start];
        scan.begin(&header);
        Place { segment, at: BLOCK }
    });
    let begin = begin.zip(scan.chain().cloned()).map(|(place, chain)| Beginning { place, chain });
    let walker = Walker { storage, layout, identity };
    let stop = match &begin {
        Some(begin) => walker.walk(&mut scan, begin.place, &firsts)?,
        None => Place { segment: u64::MAX, at: 0 },
    };
    walker.search(&mut scan, begin.as_ref(), stop)?;
    let suspect = suspect.or(begin.as_ref().map(|_| (layout.file(stop.segment), stop.at)));
    Ok(Scanned { scan, mark_slot, firsts, begin, next_segment, suspect })
}

fn read_marks<S: Storage>(
    storage: &S,
    layout: Layout,
    identity: Identity,
    scan: &mut Scan,
) -> Result<u64, JournalError> {
    let (mut newest, mut body) = (None, Vec::new());
    for slot in 0..MARK_SLOTS {
        let end = (slot + 1) * BLOCK;
        let read = read_record(storage, MARKS, slot * BLOCK, end, identity, &mut body)?;
        let read = read.and_then(|header| match header.kind {
            Kind::Applied => Ok((header, body::Shape::decode(&body)?)),
            _ => Err(RecordError::Body("no mark")),
        });
        if read.as_ref().is_ok_and(|(_, shape)| *shape != layout.shape()) {
            let what = "their number or length is not what the marks say";
            return Err(JournalError::Layout { file: storage.describe(MARKS), what });
        }
        let read = read.map(|(header, _)| header);
        scan.mark(&read);
        newest = newest.max(read.ok().map(|mark| (mark.life, mark.applied, mark.synced, slot)));
    }
    Ok(newest.map_or(0, |(.., slot)| slot))
}

struct Walker<'a, S> {
    storage: &'a S,
    layout: Layout,
    identity: Identity,
}

impl<S: Storage> Walker<'_, S> {
    /// Walks to the first place where the next record does not stand.
    fn walk(&self, scan: &mut Scan, mut place: Place, firsts: &Firsts) -> Result<Place, JournalError> {
        let mut body = Vec::new();
        loop {
            if firsts.get(&(place.segment + 1)) == Some(&scan.next_seq()) {
                place = Place { segment: place.segment + 1, at: BLOCK };
            }
            let file = self.layout.file(place.segment);
            let len = self.layout.segment_len();
            let read = read_record(self.storage, &file, place.at, len, self.identity, &mut body)?;
            let goes_on = scan.record(read.as_ref().map(|header| (header, &body[..])).map_err(Clone::clone));
            match read {
                Ok(header) if goes_on => {
                    place.at = behind(header.kind, place.at + HEADER_LEN_U64 + u64::from(header.len));
                }
                _ => return Ok(place),
            }
        }
    }

    /// Looks for witnesses wherever the walk did not lead.
    fn search(&self, scan: &mut Scan, begin: Option<&Beginning>, stop: Place) -> Result<(), JournalError> {
        let first = begin.map_or(u64::MAX, |begin| begin.place.segment);
        let walked: Vec<String> = (first..stop.segment)
            .take(self.layout.segments() as usize)
            .map(|n| self.layout.file(n))
            .collect();
        let stop_file = begin.map(|_| self.layout.file(stop.segment));
        for file in self.layout.files().filter(|file| !walked.contains(file)) {
            let from = if Some(&file) == stop_file.as_ref() { stop.at } else { BLOCK };
            self.search_file(scan, &file, from)?;
        }
        Ok(())
    }

    fn search_file(&self, scan: &mut Scan, file: &str, from: u64) -> Result<(), JournalError> {
        let mut at = from;
        while at < self.layout.segment_len() {
            let len = SEARCH.min(self.layout.segment_len() - at);
            let mut bytes = vec![0; len as usize];
            self.storage.read_at(file, at, &mut bytes).map_err(|e| failed(self.storage, "read", file, e))?;
            for sector in bytes.chunks_exact(SECTOR as usize) {
                let head = sector.first_chunk::<HEADER_LEN>();
                if let Some(Ok(header)) = head.map(|head| Header::decode(head, self.identity)) {
                    scan.witness(&header);
                }
            }
            at += len;
        }
        Ok(())
    }
}
