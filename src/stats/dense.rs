//! Products of permuted rank matrices: the inner loop of the permutation test.
//!
//! Doubled centred ranks of up to 256 stimuli fit 16 bits, so a product is exact in integers whatever the order of
//! summation, and on processors with AVX-512 a row of the matrix fits eight registers, in which 32 permuted entries are
//! looked up at once. Elsewhere the same sums are done one by one.

/// Ranks as they are stored: 16 bits for up to 256 stimuli, else 32.
pub(super) trait Rank: Copy + Default + Send + Sync {
    /// Entries that a row of the matrix takes up.
    fn stride(stimuli: usize) -> usize;
    /// A rank that the caller knows to fit.
    fn of(rank: i64) -> Self;
    /// Its value.
    fn value(self) -> i64;
    /// `out[i, j] = table[order[i], order[j]]` for j > i; what lies elsewhere in `out` is any value.
    fn permute(table: &[Self], order: &[u16], out: &mut [Self]) {
        permute(table, Self::stride(order.len()), order, out);
    }
    /// Σ over i < j of `triangle[i, j] · permuted[i, j]`; `triangle` is 0 elsewhere.
    fn product(stimuli: usize, triangle: &[Self], permuted: &[Self]) -> i64 {
        product(stimuli, Self::stride(stimuli), triangle, permuted)
    }
}

impl Rank for i32 {
    fn stride(stimuli: usize) -> usize {
        stimuli
    }

    fn of(rank: i64) -> Self {
        rank as i32
    }

    fn value(self) -> i64 {
        i64::from(self)
    }
}

impl Rank for i16 {
    fn stride(_stimuli: usize) -> usize {
        WIDE
    }

    fn of(rank: i64) -> Self {
        rank as i16
    }

    fn value(self) -> i64 {
        i64::from(self)
    }

    fn permute(table: &[Self], order: &[u16], out: &mut [Self]) {
        #[cfg(target_arch = "x86_64")]
        if wide::available() {
            return wide::permuted(table, order, out);
        }
        permute(table, WIDE, order, out);
    }

    fn product(stimuli: usize, triangle: &[Self], permuted: &[Self]) -> i64 {
        #[cfg(target_arch = "x86_64")]
        if wide::available() {
            return wide::product(stimuli, triangle, permuted);
        }
        product(stimuli, WIDE, triangle, permuted)
    }
}

/// Row length of 16-bit matrices.
const WIDE: usize = 256;

fn permute<R: Copy>(table: &[R], stride: usize, order: &[u16], out: &mut [R]) {
    for (i, &from) in order.iter().enumerate() {
        let source = &table[usize::from(from) * stride..][..stride];
        let row = &mut out[i * stride..][..stride];
        for (entry, &column) in row[i + 1..].iter_mut().zip(&order[i + 1..]) {
            *entry = source[usize::from(column)];
        }
    }
}

fn product<R: Rank>(stimuli: usize, stride: usize, triangle: &[R], permuted: &[R]) -> i64 {
    let rows = (0..stimuli).map(|i| i * stride + i + 1..i * stride + stimuli);
    let row = |range: std::ops::Range<usize>| -> i64 {
        triangle[range.clone()].iter().zip(&permuted[range]).map(|(a, b)| a.value() * b.value()).sum()
    };
    rows.map(row).sum()
}

/// A symmetric matrix of ranks that is permuted again and again.
pub(super) struct Dense<R> {
    stimuli: usize,
    table: Vec<R>,
}

impl<R: Rank> Dense<R> {
    /// Of doubled centred ranks of the pairs i < j in row order.
    pub(super) fn new(stimuli: usize, ranks: impl Iterator<Item = i64>) -> Self {
        let stride = R::stride(stimuli);
        let mut table = vec![R::default(); stimuli * stride];
        for ((i, j), rank) in super::rsm::upper_triangle(stimuli).zip(ranks) {
            table[i * stride + j] = R::of(rank);
            table[j * stride + i] = R::of(rank);
        }
        Self { stimuli, table }
    }

    /// Another side's ranks, laid out to be multiplied.
    pub(super) fn triangle(&self, ranks: impl Iterator<Item = i64>) -> Vec<R> {
        let stride = R::stride(self.stimuli);
        let mut triangle = vec![R::default(); self.stimuli * stride];
        for ((i, j), rank) in super::rsm::upper_triangle(self.stimuli).zip(ranks) {
            triangle[i * stride + j] = R::of(rank);
        }
        triangle
    }

    /// Room for a permuted matrix.
    pub(super) fn space(&self) -> Vec<R> {
        vec![R::default(); self.table.len()]
    }

    /// The matrix with rows and columns in `order`, its part right of the diagonal, into `space`.
    pub(super) fn permute(&self, order: &[u16], space: &mut [R]) {
        R::permute(&self.table, order, space);
    }

    /// Σ over pairs of a [`Dense::triangle`] times a permuted matrix.
    pub(super) fn product(&self, triangle: &[R], permuted: &[R]) -> i64 {
        R::product(self.stimuli, triangle, permuted)
    }
}

/// AVX-512 forms for up to 256 stimuli.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::WIDE;

    /// 16-bit entries of a register.
    const LANES: usize = 32;

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
    }

    pub(super) fn permuted(table: &[i16], order: &[u16], out: &mut [i16]) {
        assert!(available() && order.len() <= WIDE && order.iter().all(|&to| usize::from(to) < order.len()));
        assert!(table.len() >= order.len() * WIDE && out.len() >= order.len() * WIDE);
        let mut columns = [0u16; WIDE];
        columns[..order.len()].copy_from_slice(order);
        // SAFETY: the processor has the features, and every row of both matrices is `WIDE` long (asserted above).
        unsafe { permuted_rows(table, &columns, order.len(), out) }
    }

    pub(super) fn product(stimuli: usize, triangle: &[i16], permuted: &[i16]) -> i64 {
        assert!(available() && stimuli <= WIDE);
        assert!(triangle.len() >= stimuli * WIDE && permuted.len() >= stimuli * WIDE);
        // SAFETY: as above.
        unsafe { product_rows(stimuli, triangle, permuted) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn permuted_rows(table: &[i16], columns: &[u16; WIDE], stimuli: usize, out: &mut [i16]) {
        let blocks = stimuli.div_ceil(LANES);
        for i in 0..stimuli {
            // SAFETY: `columns[i] < stimuli`, and eight registers are one row.
            let source = unsafe { table.as_ptr().add(usize::from(columns[i]) * WIDE) };
            let load = |part: usize| unsafe { _mm512_loadu_si512(source.add(part * LANES).cast()) };
            let parts: [__m512i; 8] = std::array::from_fn(load);
            for block in (i + 1) / LANES..blocks {
                // SAFETY: `block < 8`.
                let index = unsafe { _mm512_loadu_si512(columns.as_ptr().add(block * LANES).cast()) };
                // The low six bits choose among two registers, the next two among the four pairs of registers.
                let pair = |p: usize| _mm512_permutex2var_epi16(parts[2 * p], index, parts[2 * p + 1]);
                let odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
                let upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
                let low = _mm512_mask_blend_epi16(odd, pair(0), pair(1));
                let high = _mm512_mask_blend_epi16(odd, pair(2), pair(3));
                let found = _mm512_mask_blend_epi16(upper, low, high);
                // SAFETY: row i of `out` is `WIDE` long.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(i * WIDE + block * LANES).cast(), found) };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn product_rows(stimuli: usize, triangle: &[i16], permuted: &[i16]) -> i64 {
        let blocks = stimuli.div_ceil(LANES);
        let mut sums = [_mm512_setzero_si512(); 2];
        for i in 0..stimuli {
            for block in (i + 1) / LANES..blocks {
                let place = i * WIDE + block * LANES;
                // SAFETY: both matrices hold `stimuli` rows of `WIDE`.
                let (left, right) = unsafe {
                    let load = |from: &[i16]| _mm512_loadu_si512(from.as_ptr().add(place).cast());
                    (load(triangle), load(permuted))
                };
                // Two products of ranks within ±32,639 fit 32 bits; their sums do not, so they are widened at once.
                let products = _mm512_madd_epi16(left, right);
                let (low, high) = (_mm512_castsi512_si256(products), _mm512_extracti64x4_epi64::<1>(products));
                sums[0] = _mm512_add_epi64(sums[0], _mm512_cvtepi32_epi64(low));
                sums[1] = _mm512_add_epi64(sums[1], _mm512_cvtepi32_epi64(high));
            }
        }
        _mm512_reduce_add_epi64(_mm512_add_epi64(sums[0], sums[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::random::Streams;

    /// The largest ranks that occur, at every number of stimuli that ends a block and at some that do not.
    #[test]
    fn every_form_gives_the_sum_of_products() {
        let streams = Streams::new(0, "test");
        for stimuli in [2, 3, 31, 32, 33, 64, 129, 250, 256] {
            let pairs = (stimuli * (stimuli - 1) / 2) as i64;
            let mut stream = streams.at(0, stimuli as u64, "dense");
            let mut ranks = |_| {
                let mut ranks: Vec<i64> = (1..=pairs).map(|rank| 2 * rank - pairs - 1).collect();
                stream.shuffle(&mut ranks);
                ranks
            };
            let [human, model] = [0, 1].map(&mut ranks);
            let order: Vec<u16> = stream.permutation(stimuli).into_iter().map(|place| place as u16).collect();
            let mut square = vec![0; stimuli * stimuli];
            for ((i, j), &rank) in crate::stats::rsm::upper_triangle(stimuli).zip(&human) {
                (square[i * stimuli + j], square[j * stimuli + i]) = (rank, rank);
            }
            let moved = crate::stats::rsm::upper_triangle(stimuli)
                .map(|(i, j)| square[usize::from(order[i]) * stimuli + usize::from(order[j])]);
            let expected: i64 = moved.zip(&model).map(|(a, b)| a * b).sum();
            let same: i64 = human.iter().map(|rank| rank * rank).sum();
            let narrow = Dense::<i16>::new(stimuli, human.iter().copied());
            let broad = Dense::<i32>::new(stimuli, human.iter().copied());
            let (mut space, mut broad_space) = (narrow.space(), broad.space());
            narrow.permute(&order, &mut space);
            broad.permute(&order, &mut broad_space);
            let side = narrow.triangle(model.iter().copied());
            assert_eq!(narrow.product(&side, &space), expected, "{stimuli} stimuli");
            assert_eq!(product(stimuli, WIDE, &side, &space), expected, "{stimuli} stimuli, one by one");
            assert_eq!(broad.product(&broad.triangle(model.into_iter()), &broad_space), expected);
            let mut one_by_one = narrow.space();
            permute(&narrow.table, WIDE, &order, &mut one_by_one);
            assert_eq!(product(stimuli, WIDE, &side, &one_by_one), expected);
            // No sum overflows when every product is as large as it can be.
            assert_eq!(narrow.product(&narrow.triangle(human.iter().copied()), &narrow.table), same);
        }
    }
}
