//! What a commit changes of claims, as bytes, in the order in which claims are on disk.

use std::ops::Range;

use super::expiry::Boot;
use super::id::Id;
use super::{Record, Write, terms};
use crate::blocklist::Terms;

/// A claim as it shall be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    /// Of its [`Id`].
    pub(super) id: &'a [u8],
    /// See [`terms`]. `None`: it is taken out.
    pub(super) terms: Option<&'a [u8]>,
}

/// Holds the bytes of [`Change`]s.
#[derive(Debug, Default)]
pub(super) struct Changes {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a change has its bytes.
#[derive(Debug)]
struct Place {
    id: Range<usize>,
    terms: Option<Range<usize>>,
}

impl Changes {
    /// Those of `writes` that are about claims. Claims that expire are stored with the time they have left in `boot`.
    pub(super) fn of(writes: &[Write], boot: Boot) -> Self {
        let mut changes = Self { bytes: Vec::new(), places: Vec::with_capacity(writes.len()) };
        // Those of one request are alike, and in a row.
        let mut last: Option<(&Terms, Range<usize>)> = None;
        for write in writes {
            let Some(id) = Id::of(write) else { continue };
            let id = changes.append(|bytes| id.write(bytes));
            let terms = if let Write::Put(Record { terms, .. }) = write {
                let place = match last {
                    Some((same, place)) if same == terms => place,
                    Some(_) | None => changes.append(|bytes| terms::write(terms, boot, bytes)),
                };
                last = Some((terms, place.clone()));
                Some(place)
            } else {
                None
            };
            changes.places.push(Place { id, terms });
        }
        changes
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }

    /// By [`Change::id`]; of those with the same, the last alone, which counts.
    pub(super) fn sorted(&self) -> Vec<Change<'_>> {
        let bytes = |place: &Range<usize>| self.bytes.get(place.clone()).unwrap_or_default();
        let change = |place: &Place| Change { id: bytes(&place.id), terms: place.terms.as_ref().map(bytes) };
        let mut sorted: Vec<Change<'_>> = self.places.iter().map(change).collect();
        // Stable, so that what came later stands behind.
        sorted.sort_by(|a, b| a.id.cmp(b.id));
        sorted.dedup_by(|later, former| {
            let same = later.id == former.id;
            if same {
                *former = *later;
            }
            same
        });
        sorted
    }
}
