//! The rows of a sequence: runs of them, one after the other.

use std::ops::Range;

use crate::format::{GROUP, Rows};

/// A run of tokens stored alike: as many keys as values.
#[derive(Debug, Clone, Copy)]
pub struct KvRun<'a> {
    /// Keys of the run.
    pub keys: Rows<'a>,
    /// Values of the run.
    pub values: Rows<'a>,
    /// Whether the keys are in the scaled domain, to be met by [`crate::QueryTile::scaled_queries`].
    pub scaled: bool,
}

/// Runs one after the other, and where each ends.
pub(crate) struct Sequence<'r, 'a> {
    runs: &'r [KvRun<'a>],
    /// Rows of a run and all before it.
    ends: Vec<usize>,
}

impl<'r, 'a> Sequence<'r, 'a> {
    /// # Panics
    /// If a run has another number of values than of keys, or one that others follow is not whole groups.
    pub(crate) fn new(runs: &'r [KvRun<'a>]) -> Self {
        let mut end = 0usize;
        let mut ends = Vec::with_capacity(runs.len());
        for run in runs {
            assert_eq!(run.keys.len(), run.values.len(), "as many values as keys");
            let unit = run.keys.layout().unit_rows().max(run.values.layout().unit_rows());
            assert!(end.is_multiple_of(unit), "runs begin with a unit of their layout");
            end += run.keys.len();
            ends.push(end);
        }
        Self { runs, ends }
    }

    /// Rows of all runs.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The parts of `block`, which begins with a [`crate::KEY_BLOCK`], that lie in one run: the run, its rows, and the
    /// group of the block they begin with.
    pub(crate) fn parts(
        &self,
        block: &Range<usize>,
    ) -> impl Iterator<Item = (&'r KvRun<'a>, Range<usize>, usize)> {
        let block = block.clone();
        let end_of_block = block.end;
        let first = self.ends.partition_point(|end| *end <= block.start);
        let runs = self.runs[first..].iter().zip(&self.ends[first..]);
        runs.map(|(run, end)| (run, end - run.keys.len()..*end))
            .take_while(move |(_, span)| span.start < end_of_block)
            .filter_map(move |(run, span)| {
                let (start, end) = (span.start.max(block.start), span.end.min(block.end));
                let rows = start..end;
                (!rows.is_empty())
                    .then(|| (run, start - span.start..end - span.start, (start - block.start) / GROUP))
            })
    }
}
