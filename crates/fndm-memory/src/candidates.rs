//! Which rows may be among a query's nearest, while all rows pass by.

/// A row and its squared distance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbour {
    pub(crate) distance: f32,
    pub(crate) row: usize,
}

/// How far a rounded key may be from what it stands for.
///
/// A row x has the key |x|^2 - 2 x.q, which is the squared distance but for |q|^2, the same for all rows. In f32 a sum of D products
/// is off by at most D u times the sum of their sizes (Higham 2002, section 3.1; u = 2^-24), and that sum is at most
/// (|x|^2 + |q|^2) / 2. The other roundings (norms, differences, the shift of the origin) add less than 16 u (|x|^2 + |q|^2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding {
    /// Of a key, relative to |x|^2 + |q|^2.
    relative: f32,
}

impl Rounding {
    /// Beyond this, squares could overflow: such rows and queries are compared directly.
    pub(crate) const LARGEST_NORM: f32 = 1e37;

    pub(crate) fn new(dimension: usize) -> Self {
        let units = dimension as f32 + 16.0;
        Self {
            relative: units * 0.5 * f32::EPSILON,
        }
    }

    /// From |x|^2 to the first part of a key that isn't above its true value, up to [`Rounding::of`] the query.
    pub(crate) fn lower(self, norm: f32) -> f32 {
        norm - self.relative * norm
    }

    /// The part of a key's error that a squared norm brings.
    pub(crate) fn of(self, norm: f32) -> f32 {
        // The smallest normal number stands for what underflow can take.
        self.relative * norm + f32::MIN_POSITIVE
    }
}

/// The rows that may be among the `k` nearest of one query. Rows come in ascending order.
#[derive(Debug)]
pub(crate) struct Candidates {
    k: usize,
    /// Squared norm of the query.
    norm: f32,
    rounding: Rounding,
    /// The nearest rows whose distance is known: at most k, nearest first.
    known: Vec<Neighbour>,
    /// Rows whose distance isn't known yet, with their lower bounds.
    open: Vec<(f32, usize)>,
    /// The k smallest upper bounds, ascending.
    uppers: Vec<f32>,
    /// What a lower bound mustn't exceed.
    limit: f32,
}

/// Keys that are compared at a time.
const LANES: usize = 16;

/// The keys of a block of rows, if any is within the limit.
fn keys_within(products: &[f32; LANES], lowers: &[f32; LANES], limit: f32) -> Option<[f32; LANES]> {
    let mut keys = [0f32; LANES];
    let mut within = 0u32;
    for ((key, p), lower) in keys.iter_mut().zip(products).zip(lowers) {
        *key = lower - 2.0 * p;
        within |= u32::from(*key <= limit);
    }
    (within != 0).then_some(keys)
}

/// Open rows beyond k before their distances are taken.
const OPEN: usize = 64;

impl Candidates {
    pub(crate) fn new(k: usize, norm: f32, rounding: Rounding) -> Self {
        Self {
            k,
            norm,
            rounding,
            known: Vec::new(),
            open: Vec::new(),
            uppers: Vec::new(),
            limit: f32::INFINITY,
        }
    }

    /// Takes rows from `first` on by their products with the query, the lower parts of their keys and their squared norms.
    pub(crate) fn scan(
        &mut self,
        products: &[f32],
        lowers: &[f32],
        norms: &[f32],
        first: usize,
        distance: impl Fn(usize) -> f32,
    ) {
        let (blocks, rest) = products.as_chunks();
        let (lower_blocks, lower_rest) = lowers.as_chunks();
        let mut at = 0;
        for (products, lowers) in blocks.iter().zip(lower_blocks) {
            // Most blocks hold no candidate, which one comparison of all lanes tells.
            if let Some(keys) = keys_within(products, lowers, self.limit) {
                self.take_block(&keys, &norms[at..], first + at, &distance);
            }
            at += LANES;
        }
        let mut keys = [f32::NAN; LANES];
        for ((key, p), lower) in keys.iter_mut().zip(rest).zip(lower_rest) {
            *key = lower - 2.0 * p;
        }
        self.take_block(&keys, &norms[at..], first + at, &distance);
    }

    /// Takes the keys of a block that are within the limit; NaN never is.
    fn take_block(
        &mut self,
        keys: &[f32; LANES],
        norms: &[f32],
        first: usize,
        distance: impl Fn(usize) -> f32,
    ) {
        for (lane, (&key, &norm)) in keys.iter().zip(norms).enumerate() {
            if key <= self.limit {
                let margin = self.rounding.of(norm) + self.rounding.of(self.norm);
                self.add(key, key + 2.0 * margin, first + lane, &distance);
            }
        }
    }

    fn add(&mut self, lower: f32, upper: f32, row: usize, distance: impl Fn(usize) -> f32) {
        self.open.push((lower, row));
        if self.uppers.len() < self.k || self.uppers.last().is_some_and(|last| upper < *last) {
            let at = self.uppers.partition_point(|u| *u <= upper);
            self.uppers.insert(at, upper);
            self.uppers.truncate(self.k);
            if let (true, Some(&last)) = (self.uppers.len() == self.k, self.uppers.last()) {
                self.limit = self.limit.min(last);
            }
        }
        if self.open.len() >= self.k.saturating_add(OPEN) {
            let limit = self.limit;
            self.open.retain(|(lower, _)| *lower <= limit);
            // Many rows alike: their order is beyond what keys can tell.
            if self.open.len() >= self.k.saturating_add(OPEN / 2) {
                self.settle(distance);
            }
        }
    }

    /// Takes a row whatever its key.
    pub(crate) fn take(&mut self, row: usize, distance: impl Fn(usize) -> f32) {
        self.open.push((f32::NEG_INFINITY, row));
        if self.open.len() >= self.k.saturating_add(OPEN) {
            self.settle(distance);
        }
    }

    /// Puts distances in place of bounds.
    fn settle(&mut self, distance: impl Fn(usize) -> f32) {
        let limit = self.limit;
        let open = self.open.drain(..).filter(|(lower, _)| *lower <= limit);
        self.known.extend(open.map(|(_, row)| Neighbour {
            distance: distance(row),
            row,
        }));
        self.known
            .sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        self.known.truncate(self.k);
        if let (true, Some(last)) = (self.known.len() == self.k, self.known.last()) {
            // Of equal distances the earlier row counts, and at 0 nothing can be nearer.
            self.limit = if last.distance == 0.0 {
                f32::NEG_INFINITY
            } else {
                let key = last.distance * (1.0 + 4.0 * f32::EPSILON) - self.norm;
                let margin = self.rounding.of(self.norm) + self.rounding.of(last.distance);
                self.limit.min((key + margin).next_up())
            };
        }
    }

    /// The nearest rows, nearest first; of equal distances the lower row first.
    pub(crate) fn finish(mut self, distance: impl Fn(usize) -> f32) -> Vec<Neighbour> {
        self.settle(distance);
        self.known
    }
}
