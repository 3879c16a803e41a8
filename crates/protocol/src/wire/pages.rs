//! Owns the encoding of memory pages in the body of a Pages frame.
//!
//! A body is a sequence of records, each one page or a run of zero pages:
//!
//! | size | field |
//! |---|---|
//! | 8 | little endian: page index in bits 0–47, RAM block in bits 48–55, encoding in bits 56–63 |
//! | 4 (Zero) | number of zero pages from that index on |
//! | 4096 (Raw) | the page |
//! | 2 + n (Lz4) | n, then an LZ4 block of the page |
//! | 2 + n (Delta) | n, then an LZ4 block of the page XORed with the version that was sent before it in this session |
//! | 2 + 10 n (Words) | n from 1 to 48, then of each word of 8 bytes that changed, in order: its index, and the word XORed as above |
//!
//! Everything a reader hands out was checked: block and index lie inside the layout, a compressed page unpacks
//! to exactly one page. Applying it later cannot fail.

use super::MAX_BODY_LEN;
use super::known::KnownPages;
use alloc::vec::Vec;

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

const ZERO: u8 = 0;
const RAW: u8 = 1;
const LZ4: u8 = 2;
const DELTA: u8 = 3;
const WORDS: u8 = 4;
/// So few changed words are sent one by one: sooner made and read than an LZ4 block, and rarely longer.
const FEW_CHANGED: usize = 48;
/// Past so many changed words of 8 bytes a page is not worth a delta: half of it.
const MANY_CHANGED: usize = PAGE / 8 / 2;
/// A compressed page must be shorter than this: one that shrinks by less than an eighth is cheaper to read raw.
const WORTHWHILE: usize = PAGE / 8 * 7;
const INDEX_BITS: u32 = 48;
/// A batch is full when a raw page might no longer fit.
const FULL: usize = MAX_BODY_LEN as usize - PAGE - 16;

/// Why a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// The body ends inside a record.
    #[error("the batch of pages ends in the middle of a record")]
    Truncated,
    /// An encoding that this version does not know.
    #[error("unknown page encoding {0}")]
    Encoding(u8),
    /// A page that the VM does not have.
    #[error("page {page} (and {more} more) of RAM block {block} does not exist in this VM")]
    OutOfRange {
        /// Index of the RAM block.
        block: u8,
        /// Index of the first page.
        page: u64,
        /// Pages behind it in the record.
        more: u64,
    },
    /// A compressed page that does not unpack to a page.
    #[error("a compressed page is damaged")]
    Lz4,
    /// Words that no page has, not in order, none or too many.
    #[error("the changed words of a page are damaged")]
    Words,
}

/// Collects pages into the body of one frame.
#[derive(Debug, Default)]
pub struct PageBatch {
    body: Vec<u8>,
    scratch: Vec<u8>,
    zero_run: Option<ZeroRun>,
    counts: PageCounts,
}

/// What became of the pages of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages added.
    pub pages: u64,
    /// Of them sent as what changed.
    pub deltas: u64,
    /// Of them not sent: the guest wrote what was there.
    pub unchanged: u64,
    /// Of them sent as zeros.
    pub zeros: u64,
}

#[derive(Debug, Clone, Copy)]
struct ZeroRun {
    block: u8,
    first: u64,
    count: u32,
}

impl PageBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            body: Vec::with_capacity(MAX_BODY_LEN as usize),
            scratch: alloc::vec![0; lz4_flex::block::get_maximum_output_size(PAGE)],
            zero_run: None,
            counts: PageCounts::default(),
        }
    }

    /// Adds a page, packed if that makes it shorter.
    pub fn push(&mut self, block: u8, page: u64, data: &[u8; PAGE]) {
        self.push_whole(block, page, data, true);
    }

    /// Adds a page; unless it `packs` or is zero it goes as it is, for links that carry it sooner than it is packed.
    pub fn push_whole(&mut self, block: u8, page: u64, data: &[u8; PAGE], packs: bool) {
        self.counts.pages += 1;
        if is_zero(data) {
            self.push_zero(block, page);
            return;
        }
        self.flush_zeros();
        if !(packs && self.push_packed(block, page, LZ4, data)) {
            self.head(block, page, RAW);
            self.body.extend_from_slice(data);
        }
    }

    /// Adds a page as what changed if its last version is known and little did, and not at all if nothing did. From now on
    /// this version is known. One that goes whole is packed or not.
    pub fn push_changed(
        &mut self,
        block: u8,
        page: u64,
        data: &[u8; PAGE],
        known: &mut KnownPages,
        packs: bool,
    ) {
        let Some(version) = known.version(block, page) else {
            known.keep(block, page, data);
            return self.push_whole(block, page, data, packs);
        };
        let (delta, changed) = xor(version, data);
        if changed == 0 {
            self.counts.pages += 1;
            self.counts.unchanged += 1;
            return;
        }
        *version = *data;
        if changed > MANY_CHANGED || is_zero(data) {
            return self.push_whole(block, page, data, packs);
        }
        self.flush_zeros();
        if self.push_delta(block, page, &delta, changed) {
            self.counts.pages += 1;
            self.counts.deltas += 1;
        } else {
            self.push_whole(block, page, data, packs);
        }
    }

    /// False if it is not worth while.
    fn push_delta(&mut self, block: u8, page: u64, delta: &[u8; PAGE], changed: usize) -> bool {
        if changed > FEW_CHANGED {
            return self.push_packed(block, page, DELTA, delta);
        }
        self.head(block, page, WORDS);
        self.body.extend_from_slice(&(changed as u16).to_le_bytes());
        for (at, word) in (0u16..).zip(delta.as_chunks::<8>().0).filter(|(_, word)| **word != [0; 8]) {
            self.body.extend_from_slice(&at.to_le_bytes());
            self.body.extend_from_slice(word);
        }
        true
    }

    /// False if it is not worth while.
    fn push_packed(&mut self, block: u8, page: u64, encoding: u8, data: &[u8; PAGE]) -> bool {
        match lz4_flex::block::compress_into(data, &mut self.scratch) {
            Ok(len) if len < WORTHWHILE => {
                self.head(block, page, encoding);
                self.body.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_le_bytes());
                self.body.extend_from_slice(&self.scratch[..len]);
                true
            }
            _ => false,
        }
    }

    fn push_zero(&mut self, block: u8, page: u64) {
        self.counts.zeros += 1;
        if let Some(run) = &mut self.zero_run
            && run.block == block
            && run.first + u64::from(run.count) == page
            && run.count < u32::MAX
        {
            run.count += 1;
            return;
        }
        self.flush_zeros();
        self.zero_run = Some(ZeroRun { block, first: page, count: 1 });
    }

    fn flush_zeros(&mut self) {
        if let Some(run) = self.zero_run.take() {
            self.head(run.block, run.first, ZERO);
            self.body.extend_from_slice(&run.count.to_le_bytes());
        }
    }

    fn head(&mut self, block: u8, page: u64, encoding: u8) {
        debug_assert!(page >> INDEX_BITS == 0);
        let word = page | (u64::from(block) << INDEX_BITS) | (u64::from(encoding) << (INDEX_BITS + 8));
        self.body.extend_from_slice(&word.to_le_bytes());
    }

    /// Whether the batch must be sent before another page is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.body.len() >= FULL - 32
    }

    /// Bytes of the frame's body so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty() && self.zero_run.is_none()
    }

    /// What became of the pages added so far.
    #[must_use]
    pub fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Ends the batch: its body. Call [`PageBatch::clear`] before the next.
    pub fn finish(&mut self) -> &[u8] {
        self.flush_zeros();
        &self.body
    }

    /// The frame's body, to keep. [`PageBatch::clear`] before the next page.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.flush_zeros();
        let room = self.body.capacity();
        core::mem::replace(&mut self.body, Vec::with_capacity(room))
    }

    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.body.clear();
        self.zero_run = None;
        self.counts = PageCounts::default();
    }
}

/// Whether a page holds only zeros.
#[must_use]
pub fn is_zero(data: &[u8; PAGE]) -> bool {
    data.as_chunks::<64>().0.iter().all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0)
}

/// Both versions XORed, and how many words of 8 bytes differ.
fn xor(before: &[u8; PAGE], after: &[u8; PAGE]) -> ([u8; PAGE], usize) {
    let mut delta = [0; PAGE];
    let mut changed = 0;
    let words = before.as_chunks::<8>().0.iter().zip(after.as_chunks::<8>().0);
    for (out, (one, other)) in delta.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        let word = u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other);
        changed += usize::from(word != 0);
        *out = word.to_ne_bytes();
    }
    (delta, changed)
}

/// What a record says about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageData<'a> {
    /// So many zero pages from the index on.
    Zeros(u64),
    /// One page.
    Page(&'a [u8; PAGE]),
    /// What is to be XORed to the page as it is.
    Delta(&'a [u8; PAGE]),
}

/// Reads the records of a batch, calling `visit(block, page, data)` for each.
///
/// `layout[block]` is the number of pages of that RAM block. Called with an empty `visit` it validates.
///
/// # Errors
/// At the first record that is malformed or outside the layout; records before it were visited.
pub fn read_batch(
    body: &[u8],
    layout: &[u64],
    mut visit: impl FnMut(u8, u64, PageData<'_>),
) -> Result<u64, PagesError> {
    let mut rest = body;
    let mut pages = 0;
    let mut unpacked = [0; PAGE];
    while !rest.is_empty() {
        let word = u64::from_le_bytes(*take::<8>(&mut rest)?);
        let page = word & ((1 << INDEX_BITS) - 1);
        let [block, encoding] = [(word >> INDEX_BITS) as u8, (word >> (INDEX_BITS + 8)) as u8];
        let in_range = |count: u64| {
            let len = layout.get(usize::from(block)).copied().unwrap_or(0);
            let fits = count > 0 && page.checked_add(count).is_some_and(|end| end <= len);
            fits.then_some(()).ok_or(PagesError::OutOfRange { block, page, more: count.saturating_sub(1) })
        };
        match encoding {
            ZERO => {
                let count = u64::from(u32::from_le_bytes(*take::<4>(&mut rest)?));
                in_range(count)?;
                visit(block, page, PageData::Zeros(count));
                pages += count;
            }
            RAW => {
                let data = take::<PAGE>(&mut rest)?;
                in_range(1)?;
                visit(block, page, PageData::Page(data));
                pages += 1;
            }
            LZ4 | DELTA => {
                let len = usize::from(u16::from_le_bytes(*take::<2>(&mut rest)?));
                let (packed, after) = rest.split_at_checked(len).ok_or(PagesError::Truncated)?;
                rest = after;
                in_range(1)?;
                match lz4_flex::block::decompress_into(packed, &mut unpacked) {
                    Ok(PAGE) if encoding == DELTA => visit(block, page, PageData::Delta(&unpacked)),
                    Ok(PAGE) => visit(block, page, PageData::Page(&unpacked)),
                    _ => return Err(PagesError::Lz4),
                }
                pages += 1;
            }
            WORDS => {
                read_words(&mut rest, &mut unpacked)?;
                in_range(1)?;
                visit(block, page, PageData::Delta(&unpacked));
                pages += 1;
            }
            other => return Err(PagesError::Encoding(other)),
        }
    }
    Ok(pages)
}

/// Reads the changed words of a page into what is to be XORed to it.
fn read_words(rest: &mut &[u8], delta: &mut [u8; PAGE]) -> Result<(), PagesError> {
    let count = usize::from(u16::from_le_bytes(*take::<2>(rest)?));
    if !(1..=FEW_CHANGED).contains(&count) {
        return Err(PagesError::Words);
    }
    delta.fill(0);
    let (words, mut least) = (delta.as_chunks_mut::<8>().0, 0);
    for _ in 0..count {
        let at = usize::from(u16::from_le_bytes(*take::<2>(rest)?));
        let word = words.get_mut(at).filter(|_| at >= least).ok_or(PagesError::Words)?;
        *word = *take::<8>(rest)?;
        least = at + 1;
    }
    Ok(())
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], PagesError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(PagesError::Truncated)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pages of the three kinds: zero, compressible, random.
    fn page_of(seed: u64) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut word = seed;
        for (at, byte) in page.iter_mut().enumerate() {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = match seed % 3 {
                0 => 0,
                1 => (at / 64) as u8,
                _ => (word >> 56) as u8,
            };
        }
        page
    }

    type Pages = Vec<Vec<[u8; PAGE]>>;

    fn image_after(body: &[u8], layout: &[u64]) -> Pages {
        let mut image: Pages =
            layout.iter().map(|&n| alloc::vec![[0xee; PAGE]; usize::try_from(n).unwrap()]).collect();
        apply(&mut image, body, layout);
        image
    }

    fn apply(image: &mut Pages, body: &[u8], layout: &[u64]) {
        read_batch(body, layout, |block, page, data| {
            let pages = &mut image[usize::from(block)];
            let at = usize::try_from(page).unwrap();
            match data {
                PageData::Zeros(n) => pages[at..at + usize::try_from(n).unwrap()].fill([0; PAGE]),
                PageData::Page(p) => pages[at] = *p,
                PageData::Delta(p) => pages[at] = xor(&pages[at], p).0,
            }
        })
        .unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(writes in prop::collection::vec((0u8..2, 0u64..40, any::<u64>(), any::<bool>()), 0..60)) {
            let layout = [40, 40];
            let mut expected: Vec<Vec<[u8; PAGE]>> = alloc::vec![alloc::vec![[0xee; PAGE]; 40]; 2];
            let mut batch = PageBatch::new();
            for &(block, page, seed, packs) in &writes {
                let data = page_of(seed);
                batch.push_whole(block, page, &data, packs);
                expected[usize::from(block)][usize::try_from(page).unwrap()] = data;
            }
            prop_assert_eq!(batch.counts().pages, writes.len() as u64);
            let zeros = writes.iter().filter(|(_, _, seed, _)| is_zero(&page_of(*seed))).count();
            prop_assert_eq!(batch.counts().zeros, zeros as u64);
            prop_assert_eq!(image_after(batch.finish(), &layout), expected);
        }

        /// Epochs in which few bytes of few pages change, with room for some of their versions.
        #[test]
        fn what_changed_is_enough(
            max in 0usize..12,
            epochs in prop::collection::vec(
                prop::collection::vec(
                    (0u64..10, 0usize..PAGE, any::<u8>(), any::<u64>(), 0u8..8, any::<bool>()),
                    0..12,
                ),
                0..20,
            ),
        ) {
            let (mut known, mut batch) = (KnownPages::new(max), PageBatch::new());
            let (mut guest, mut image) = (alloc::vec![[0xee; PAGE]; 10], alloc::vec![alloc::vec![[0xee; PAGE]; 10]]);
            for writes in epochs {
                for &(page, at, byte, seed, what, packs) in &writes {
                    let data = &mut guest[usize::try_from(page).unwrap()];
                    match what {
                        0 => *data = page_of(seed),
                        1 => {}
                        _ => data[at] = byte,
                    }
                    batch.push_changed(0, page, data, &mut known, packs);
                }
                let counts = batch.counts();
                prop_assert_eq!(counts.pages, writes.len() as u64);
                prop_assert!(counts.deltas + counts.unchanged <= counts.pages);
                apply(&mut image, batch.finish(), &[10]);
                batch.clear();
                prop_assert_eq!(&image[0], &guest);
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_leave_the_layout(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let layout = [3, 1];
            let _ = read_batch(&body, &layout, |block, page, data| {
                let count = match data { PageData::Zeros(n) => n, PageData::Page(_) | PageData::Delta(_) => 1 };
                assert!(page + count <= layout[usize::from(block)]);
            });
        }

        #[test]
        fn a_truncated_batch_is_refused(seed in any::<u64>(), cut in 1usize..40) {
            let mut batch = PageBatch::new();
            batch.push(0, 1, &page_of(seed));
            let body = batch.finish();
            let cut = cut.min(body.len() - 1).max(1);
            prop_assert!(read_batch(&body[..body.len() - cut], &[8], |_, _, _| ()).is_err());
        }
    }

    #[test]
    fn zero_pages_in_a_row_cost_twelve_bytes() {
        let mut batch = PageBatch::new();
        for page in 0..1000 {
            batch.push(0, page, &[0; PAGE]);
        }
        for page in 1000..2000 {
            batch.push_whole(0, page, &[0; PAGE], false);
        }
        assert_eq!(batch.finish().len(), 12);
    }

    #[test]
    fn a_byte_that_changed_in_a_page_that_does_not_pack_costs_little() {
        let (mut known, mut batch, mut page) = (KnownPages::new(4), PageBatch::new(), page_of(2));
        batch.push_changed(0, 7, &page, &mut known, true);
        assert!(batch.finish().len() > PAGE);
        batch.clear();
        batch.push_changed(0, 7, &page, &mut known, true);
        assert!(batch.is_empty() && batch.counts().unchanged == 1, "nothing changed");
        page[2000] ^= 1;
        batch.push_changed(0, 7, &page, &mut known, true);
        assert_eq!(batch.finish().len(), 8 + 2 + 10);
        assert_eq!(batch.counts(), PageCounts { pages: 2, deltas: 1, unchanged: 1, zeros: 0 });
    }

    #[test]
    fn a_page_that_goes_whole_is_packed_only_if_asked() {
        for packs in [true, false] {
            let (mut known, mut batch) = (KnownPages::new(1), PageBatch::new());
            for seed in [1, 4] {
                let page = page_of(seed);
                batch.push_changed(0, 0, &page, &mut known, packs);
                assert_eq!(batch.finish().len() < PAGE, packs, "seed {seed}");
                batch.clear();
                known = KnownPages::new(1);
                known.keep(0, 0, &page_of(2));
            }
        }
    }

    #[test]
    fn few_changed_words_go_one_by_one_and_more_as_a_block() {
        for changed in [1, FEW_CHANGED, FEW_CHANGED + 1, MANY_CHANGED] {
            let (mut known, mut batch, mut page) = (KnownPages::new(1), PageBatch::new(), page_of(2));
            let mut image = alloc::vec![alloc::vec![page; 1]];
            batch.push_changed(0, 0, &page, &mut known, true);
            batch.clear();
            (0..changed).for_each(|word| page[word * 16 % PAGE + word * 16 / PAGE * 8] ^= 0xff);
            batch.push_changed(0, 0, &page, &mut known, true);
            assert_eq!(batch.counts().deltas, 1);
            let body = batch.finish();
            assert_eq!(body[7] == WORDS, changed <= FEW_CHANGED, "{changed} words in encoding {}", body[7]);
            apply(&mut image, body, &[1]);
            assert!(image[0][0] == page, "{changed} words");
        }
    }

    #[test]
    fn words_that_no_page_has_are_refused() {
        let record = |count: u16, words: &[u16]| {
            let mut body = (u64::from(WORDS) << (INDEX_BITS + 8)).to_le_bytes().to_vec();
            body.extend_from_slice(&count.to_le_bytes());
            for at in words {
                body.extend_from_slice(&at.to_le_bytes());
                body.extend_from_slice(&[1; 8]);
            }
            read_batch(&body, &[1], |_, _, _| ())
        };
        let last = (PAGE / 8 - 1) as u16;
        assert_eq!(record(2, &[0, last]), Ok(1));
        let all: Vec<u16> = (0..=last).collect();
        let damaged =
            [(0, &[][..]), (1, &[last + 1]), (2, &[3, 3]), (2, &[4, 3]), (FEW_CHANGED as u16 + 1, &all)];
        for (count, words) in damaged {
            assert_eq!(record(count, words), Err(PagesError::Words), "{count}: {words:?}");
        }
        assert_eq!(record(3, &[1, 2]), Err(PagesError::Truncated));
    }

    #[test]
    fn a_full_batch_fits_a_frame() {
        let mut batch = PageBatch::new();
        let mut page = 0;
        while !batch.is_full() {
            batch.push(0, page, &page_of(page * 3 + 2));
            batch.push(0, page + 1, &[0; PAGE]);
            page += 3;
        }
        assert!(batch.finish().len() <= MAX_BODY_LEN as usize);
    }

    #[test]
    fn pages_outside_the_layout_are_refused() {
        let mut batch = PageBatch::new();
        batch.push(1, 5, &page_of(1));
        let body = batch.finish();
        assert!(matches!(read_batch(body, &[9], |_, _, _| ()), Err(PagesError::OutOfRange { .. })));
        assert!(matches!(read_batch(body, &[9, 5], |_, _, _| ()), Err(PagesError::OutOfRange { .. })));
        assert_eq!(read_batch(body, &[9, 6], |_, _, _| ()), Ok(1));
    }
}
