//! How much a list is about to be, from its size and its beginning.

/// Bytes that tell what the others are like.
const BEGINNING: usize = 64 << 10;

/// A list on its way.
#[derive(Debug)]
pub(super) struct Estimate {
    /// Bytes that are to come, as somebody says.
    size: usize,
    read: usize,
}

impl Estimate {
    pub(super) fn new(size: usize) -> Self {
        Self { size, read: 0 }
    }

    /// How many prefixes of each family the list is about to have, once enough of it was read: `more` bytes now, and
    /// `so_far` of each family in all.
    pub(super) fn after(&mut self, more: usize, so_far: [usize; 2]) -> Option<[usize; 2]> {
        self.read += more;
        let estimate = |count: usize| count.saturating_mul(self.size) / self.read.max(1);
        (self.read >= BEGINNING).then(|| so_far.map(estimate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_tells_of_the_rest() {
        let mut estimate = Estimate::new(16 * BEGINNING);
        assert_eq!(estimate.after(BEGINNING - 1, [4_000, 100]), None);
        assert_eq!(estimate.after(1, [4_001, 100]), Some([64_016, 1_600]));
        // Whatever somebody says.
        assert_eq!(Estimate::new(0).after(BEGINNING, [4_000, 1]), Some([0, 0]));
        let endless = Estimate::new(usize::MAX).after(BEGINNING, [4_000, 0]);
        assert!(endless.is_some_and(|[v4, v6]| v4 > 1 << 32 && v6 == 0));
    }
}
