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
//!
//! Everything a reader hands out was checked: block and index lie inside the layout, a compressed page unpacks
//! to exactly one page. Applying it later cannot fail.

use super::MAX_BODY_LEN;
use alloc::vec::Vec;

/// Size of a page in bytes.
pub const PAGE: usize = 4096;

const ZERO: u8 = 0;
const RAW: u8 = 1;
const LZ4: u8 = 2;
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
}

/// Collects pages into the body of one frame.
#[derive(Debug, Default)]
pub struct PageBatch {
    body: Vec<u8>,
    scratch: Vec<u8>,
    zero_run: Option<ZeroRun>,
    pages: u64,
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
            pages: 0,
        }
    }

    /// Adds a page.
    pub fn push(&mut self, block: u8, page: u64, data: &[u8; PAGE]) {
        self.pages += 1;
        if is_zero(data) {
            self.push_zero(block, page);
            return;
        }
        self.flush_zeros();
        match lz4_flex::block::compress_into(data, &mut self.scratch) {
            // A page that shrinks by less than an eighth is cheaper to read raw.
            Ok(len) if len < PAGE / 8 * 7 => {
                self.head(block, page, LZ4);
                self.body.extend_from_slice(&u16::try_from(len).unwrap_or(0).to_le_bytes());
                self.body.extend_from_slice(&self.scratch[..len]);
            }
            _ => {
                self.head(block, page, RAW);
                self.body.extend_from_slice(data);
            }
        }
    }

    fn push_zero(&mut self, block: u8, page: u64) {
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

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Pages added so far.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Ends the batch: its body. Call [`PageBatch::clear`] before the next.
    pub fn finish(&mut self) -> &[u8] {
        self.flush_zeros();
        &self.body
    }

    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.body.clear();
        self.zero_run = None;
        self.pages = 0;
    }
}

/// Whether a page holds only zeros.
#[must_use]
pub fn is_zero(data: &[u8; PAGE]) -> bool {
    data.as_chunks::<64>().0.iter().all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0)
}

/// What a record says about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageData<'a> {
    /// So many zero pages from the index on.
    Zeros(u64),
    /// One page.
    Page(&'a [u8; PAGE]),
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
            LZ4 => {
                let len = usize::from(u16::from_le_bytes(*take::<2>(&mut rest)?));
                let (packed, after) = rest.split_at_checked(len).ok_or(PagesError::Truncated)?;
                rest = after;
                in_range(1)?;
                match lz4_flex::block::decompress_into(packed, &mut unpacked) {
                    Ok(PAGE) => visit(block, page, PageData::Page(&unpacked)),
                    _ => return Err(PagesError::Lz4),
                }
                pages += 1;
            }
            other => return Err(PagesError::Encoding(other)),
        }
    }
    Ok(pages)
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

    fn image_after(body: &[u8], layout: &[u64]) -> Vec<Vec<[u8; PAGE]>> {
        let mut image: Vec<Vec<[u8; PAGE]>> =
            layout.iter().map(|&n| alloc::vec![[0xee; PAGE]; usize::try_from(n).unwrap()]).collect();
        read_batch(body, layout, |block, page, data| {
            let pages = &mut image[usize::from(block)];
            let at = usize::try_from(page).unwrap();
            match data {
                PageData::Zeros(n) => pages[at..at + usize::try_from(n).unwrap()].fill([0; PAGE]),
                PageData::Page(p) => pages[at] = *p,
            }
        })
        .unwrap();
        image
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(writes in prop::collection::vec((0u8..2, 0u64..40, any::<u64>()), 0..60)) {
            let layout = [40, 40];
            let mut expected: Vec<Vec<[u8; PAGE]>> = alloc::vec![alloc::vec![[0xee; PAGE]; 40]; 2];
            let mut batch = PageBatch::new();
            for &(block, page, seed) in &writes {
                let data = page_of(seed);
                batch.push(block, page, &data);
                expected[usize::from(block)][usize::try_from(page).unwrap()] = data;
            }
            prop_assert_eq!(batch.pages(), writes.len() as u64);
            prop_assert_eq!(image_after(batch.finish(), &layout), expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_leave_the_layout(body in prop::collection::vec(any::<u8>(), 0..400)) {
            let layout = [3, 1];
            let _ = read_batch(&body, &layout, |block, page, data| {
                let count = match data { PageData::Zeros(n) => n, PageData::Page(_) => 1 };
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
        assert_eq!(batch.finish().len(), 12);
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
