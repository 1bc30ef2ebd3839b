//! Where rows lie in chunks of memory: bookkeeping that is the same whatever memory they are in.

use std::sync::Arc;

use sparkv_kernels::GROUP;

use crate::plan::growth::{Growth, Limit};

/// Memory for rows, allocated once and never moved.
pub(crate) trait Room {
    /// Rows there is room for.
    fn rows(&self) -> usize;
}

/// The first rows of a chunk, whole groups, which others may read, too, and nobody writes any more.
pub(crate) struct SharedRows<C> {
    chunk: Arc<C>,
    rows: usize,
}

impl<C> Clone for SharedRows<C> {
    fn clone(&self) -> Self {
        Self { chunk: Arc::clone(&self.chunk), rows: self.rows }
    }
}

/// Rows that are added one by one, or by blocks, to chunks of memory; what a row is and how it is written is not known
/// here. Chunks are made by a function that is given their rows.
pub(crate) struct Extent<C> {
    /// The first rows, where they are shared with others.
    shared: Vec<SharedRows<C>>,
    /// What follows. All but the last are full; all are multiples of `unit` rows.
    chunks: Vec<C>,
    len: usize,
    capacity: usize,
    /// Chunks are multiples of this many rows.
    unit: usize,
    growth: Growth,
    limit: Limit,
    /// The row to be overwritten next, once the limit is reached.
    oldest: usize,
    /// Whether a row was overwritten, so that the rows are not in order any more.
    overwritten: bool,
}

impl<C: Room> Extent<C> {
    /// No rows. Where blocks are added, the limit and what is pinned are multiples of a block.
    pub(crate) fn new(unit: usize, growth: Growth, limit: Limit) -> Self {
        Self {
            shared: Vec::new(),
            chunks: Vec::new(),
            len: 0,
            capacity: 0,
            unit,
            growth,
            limit,
            oldest: limit.pinned,
            overwritten: false,
        }
    }

    /// Rows held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Rows that may be added at once: as many as overwrite no other, at least one.
    pub(crate) fn room(&self) -> usize {
        self.limit.rows.saturating_sub(self.len).max(1)
    }

    /// Rows of the chunk that adding `rows` more would make; 0 if it would make none.
    pub(crate) fn next_chunk(&self, rows: usize) -> usize {
        if self.len + rows <= self.capacity.min(self.limit.rows) || self.len >= self.limit.rows {
            return 0;
        }
        let wanted = self.growth.rows(self.capacity, self.unit);
        wanted.min(self.limit.rows.saturating_sub(self.capacity)).next_multiple_of(self.unit)
    }

    /// Makes room for `rows` rows in all, and no more than whole units take.
    ///
    /// # Errors
    /// Those of `make`; nothing has changed then.
    pub(crate) fn reserve<E>(
        &mut self,
        rows: usize,
        make: impl FnOnce(usize) -> Result<C, E>,
    ) -> Result<(), E> {
        let rows = rows.min(self.limit.rows).saturating_sub(self.capacity);
        if rows > 0 {
            let chunk = make(rows.next_multiple_of(self.unit))?;
            self.capacity += chunk.rows();
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Adds `rows` rows: the chunk that they go to, and the first row's place in it. `None` where no row may be held.
    ///
    /// # Errors
    /// Those of `make`; nothing has changed then.
    pub(crate) fn add<E>(
        &mut self,
        rows: usize,
        make: impl FnOnce(usize) -> Result<C, E>,
    ) -> Result<Option<(&mut C, usize)>, E> {
        let index = if self.len + rows <= self.limit.rows {
            if self.len + rows > self.capacity {
                self.reserve(self.capacity + self.growth.rows(self.capacity, self.unit), make)?;
            }
            self.len += rows;
            self.len - rows
        } else if self.limit.rows == 0 {
            return Ok(None);
        } else {
            self.overwritten = true;
            let index = self.oldest;
            let next = index + rows;
            self.oldest = if next < self.limit.rows { next } else { self.limit.pinned };
            index
        };
        // From the end: rows are nearly always written to the last chunk.
        let mut start = self.capacity;
        for chunk in self.chunks.iter_mut().rev() {
            start -= chunk.rows();
            if index >= start {
                return Ok(Some((chunk, index - start)));
            }
        }
        Ok(None)
    }

    /// Rows that [`Extent::share`] would give: whole groups.
    pub(crate) fn shareable(&self) -> usize {
        if self.limit == Limit::NONE { self.len / GROUP * GROUP } else { 0 }
    }

    /// Gives the rows that can be shared: nobody writes them any more from then on. What follows them is held no longer,
    /// to be added again; the chunks that had nothing else are returned with it.
    pub(crate) fn share(&mut self) -> (Vec<SharedRows<C>>, Vec<C>) {
        let whole = self.shareable();
        let mut start = self.shared_rows();
        let mut others = Vec::new();
        for chunk in std::mem::take(&mut self.chunks) {
            let rows = chunk.rows().min(whole - start);
            start += rows;
            if rows > 0 {
                self.shared.push(SharedRows { chunk: Arc::new(chunk), rows });
            } else {
                others.push(chunk);
            }
        }
        (self.len, self.capacity) = (whole, whole);
        (self.shared.clone(), others)
    }

    /// Begins with the first `rows` rows, whole groups, that another shares. To be called while there are none.
    pub(crate) fn begin_with(&mut self, all: &[SharedRows<C>], rows: usize) {
        for shared in all {
            let rows = shared.rows.min(rows - self.len);
            if rows > 0 {
                self.shared.push(SharedRows { chunk: Arc::clone(&shared.chunk), rows });
            }
            self.len += rows;
        }
        self.capacity = self.len;
    }

    fn shared_rows(&self) -> usize {
        self.shared.iter().map(|shared| shared.rows).sum()
    }

    /// Rows at the end that [`Extent::truncate`] can take back.
    pub(crate) fn removable(&self) -> usize {
        if self.overwritten { 0 } else { self.len - self.shared_rows() }
    }

    /// Takes back all rows from `len` on, at most [`Extent::removable`] of them; memory that held nothing else is free
    /// then.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.rewind(len);
        self.free_empty_chunks();
    }

    /// Takes back rows as [`Extent::truncate`] does, but keeps the memory for others to come.
    pub(crate) fn rewind(&mut self, len: usize) {
        self.len = self.len.min(len.max(self.len - self.removable()));
    }

    /// Frees the chunks that hold no row.
    pub(crate) fn free_empty_chunks(&mut self) {
        while self.chunks.last().is_some_and(|chunk| self.len + chunk.rows() <= self.capacity) {
            self.capacity -= self.chunks.pop().map_or(0, |chunk| chunk.rows());
        }
    }

    /// The chunks that are shared, and how many of their rows are used here.
    pub(crate) fn shared(&self) -> impl Iterator<Item = (&C, usize)> {
        self.shared.iter().map(|shared| (&*shared.chunk, shared.rows))
    }

    /// The chunks of its own.
    pub(crate) fn chunks(&self) -> &[C] {
        &self.chunks
    }

    /// Chunks, and how many of their rows there is use for, in order.
    fn parts(&self) -> impl Iterator<Item = (&C, usize)> {
        self.shared().chain(self.chunks.iter().map(|chunk| (chunk, chunk.rows())))
    }

    /// Chunks that hold rows, and how many, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&C, usize)> {
        let mut left = self.len;
        self.parts().map_while(move |(chunk, rows)| {
            let rows = rows.min(left);
            left -= rows;
            (rows > 0).then_some((chunk, rows))
        })
    }

    /// The chunk with room for row `index`, and the row's place in it.
    pub(crate) fn locate(&self, index: usize) -> Option<(&C, usize)> {
        let mut start = 0;
        self.parts().find_map(|(chunk, rows)| {
            let place = index.checked_sub(start)?;
            start += rows;
            (place < rows).then_some((chunk, place))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use sparkv_kernels::BLOCK;

    use super::*;

    /// A number a row, written as devices write: by whoever holds the chunk.
    struct Numbers(RefCell<Vec<usize>>);

    impl Numbers {
        fn new(rows: usize) -> Self {
            Self(RefCell::new(vec![usize::MAX; rows]))
        }
    }

    impl Room for Numbers {
        fn rows(&self) -> usize {
            self.0.borrow().len()
        }
    }

    fn held(extent: &Extent<Numbers>) -> Vec<usize> {
        let mut all = Vec::new();
        for (chunk, rows) in extent.runs() {
            all.extend_from_slice(&chunk.0.borrow()[..rows]);
        }
        let located = (0..extent.len()).map(|index| {
            let (chunk, place) = extent.locate(index).unwrap();
            chunk.0.borrow()[place]
        });
        assert_eq!(located.collect::<Vec<_>>(), all);
        all
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// So many more, one by one.
        Add(usize),
        Reserve(usize),
        /// So many of those that can be.
        Truncate(usize),
        /// As where a block leaves from the middle: so many rows from the end are moved up.
        MoveUp(usize),
        Share,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1usize..70).prop_map(Step::Add),
            1 => (0usize..300).prop_map(Step::Reserve),
            2 => (0usize..60).prop_map(Step::Truncate),
            1 => (0usize..60).prop_map(Step::MoveUp),
            1 => Just(Step::Share),
        ];
        prop::collection::vec(step, 1..30)
    }

    /// Rows as a list, and the place in it that is overwritten next.
    struct Model {
        rows: Vec<usize>,
        limit: Limit,
        oldest: usize,
        overwritten: bool,
        shared: usize,
    }

    impl Model {
        fn add(&mut self, rows: std::ops::Range<usize>) {
            if self.rows.len() + rows.len() <= self.limit.rows {
                self.rows.extend(rows);
            } else if self.limit.rows > 0 {
                let end = self.oldest + rows.len();
                self.rows.splice(self.oldest..end, rows);
                self.oldest = if end < self.limit.rows { end } else { self.limit.pinned };
                self.overwritten = true;
            }
        }

        fn removable(&self) -> usize {
            if self.overwritten { 0 } else { self.rows.len() - self.shared }
        }
    }

    fn add(extent: &mut Extent<Numbers>, rows: std::ops::Range<usize>) {
        let predicted = extent.next_chunk(rows.len());
        let mut made = 0;
        let count = rows.len();
        let place = extent.add(count, |rows| {
            made = rows;
            Ok::<_, Infallible>(Numbers::new(rows))
        });
        if let Ok(Some((chunk, place))) = place {
            rows.zip(&mut chunk.0.get_mut()[place..place + count]).for_each(|(row, to)| *to = row);
        }
        assert_eq!(predicted, made);
    }

    fn growths() -> impl Strategy<Value = (Growth, usize, usize)> {
        // (growth, rows of a unit, rows added at once)
        prop_oneof![
            Just((Growth::Group, GROUP, 1)),
            Just((Growth::Share, GROUP, 1)),
            Just((Growth::Share, BLOCK, 1)),
            Just((Growth::Block, BLOCK, BLOCK)),
        ]
    }

    proptest! {
        #[test]
        fn rows_are_where_a_list_has_them(
            (growth, unit, at_once) in growths(), limited in prop::option::of((0usize..5, 0usize..3)),
            steps in steps(),
        ) {
            let limit = limited.map_or(Limit::NONE, |(rows, pinned)| {
                let rows = rows * BLOCK + if at_once == 1 { 7 } else { 0 };
                let pinned = (pinned * BLOCK).min(rows.saturating_sub(at_once));
                Limit { rows, pinned }
            });
            let mut extent = Extent::new(unit, growth, limit);
            let mut model =
                Model { rows: Vec::new(), limit, oldest: limit.pinned, overwritten: false, shared: 0 };
            let mut next = 0;
            let mut lent = Vec::new();
            for step in steps {
                match step {
                    Step::Add(times) => for _ in 0..times {
                        add(&mut extent, next..next + at_once);
                        model.add(next..next + at_once);
                        next += at_once;
                    },
                    Step::Reserve(rows) => {
                        let Ok(()) = extent.reserve(rows, |rows| Ok::<_, Infallible>(Numbers::new(rows)));
                    }
                    Step::Truncate(rows) => {
                        let rows = rows / at_once * at_once;
                        extent.truncate(extent.len().saturating_sub(rows));
                        model.rows.truncate(model.rows.len() - rows.min(model.removable()));
                        // The last chunk holds a row.
                        let last = extent.chunks().last().map_or(0, Room::rows);
                        prop_assert!(last == 0 || extent.capacity - last < extent.len());
                    }
                    // Blocks do not move.
                    Step::MoveUp(_) if at_once > 1 => {}
                    Step::MoveUp(rows) => {
                        let moved = model.rows.split_off(model.rows.len() - rows.min(model.removable()));
                        extent.rewind(model.rows.len());
                        let capacity = extent.capacity;
                        for row in moved {
                            add(&mut extent, row..row + 1);
                            model.add(row..row + 1);
                        }
                        prop_assert_eq!(extent.capacity, capacity);
                    }
                    Step::Share => {
                        let whole = extent.shareable();
                        prop_assert_eq!(whole, if limited.is_some() { 0 } else { next_group(&model) });
                        // As a store does that shares nothing.
                        if whole == 0 { continue; }
                        let rest = model.rows.split_off(whole);
                        let (shared, _) = extent.share();
                        model.shared = whole;
                        for row in rest.chunks(at_once) {
                            add(&mut extent, row[0]..row[0] + row.len());
                            model.add(row[0]..row[0] + row.len());
                        }
                        lent.push((shared, model.rows[..whole].to_vec()));
                    }
                }
                prop_assert_eq!(held(&extent), &model.rows[..]);
                prop_assert_eq!(extent.len(), model.rows.len());
                prop_assert_eq!(extent.removable(), model.removable());
                prop_assert_eq!(extent.room(), limit.rows.saturating_sub(model.rows.len()).max(1));
                prop_assert!(extent.chunks().iter().all(|chunk| chunk.rows().is_multiple_of(unit)));
                let rows = extent.shared().map(|(_, rows)| rows).sum::<usize>();
                let own = extent.chunks().iter().map(Room::rows).sum::<usize>();
                prop_assert_eq!((rows, rows + own), (model.shared, extent.capacity));
            }
            // What was lent stays as it was, and others may begin with any of its groups and go on by themselves.
            for (shared, rows) in &lent {
                for begun in [rows.len(), rows.len() / 2 / GROUP * GROUP] {
                    let mut other = Extent::new(unit, growth, limit);
                    other.begin_with(shared, begun);
                    prop_assert_eq!(other.removable(), 0);
                    add(&mut other, next..next + at_once);
                    let expected: Vec<usize> =
                        rows[..begun].iter().copied().chain(next..next + at_once).collect();
                    prop_assert_eq!(held(&other), expected);
                }
            }
            let unchanged = held(&extent);
            prop_assert_eq!(unchanged, model.rows);
        }
    }

    fn next_group(model: &Model) -> usize {
        model.rows.len() / GROUP * GROUP
    }

    /// The chunks that are left over when rows are shared come back, so that what they hold can be read until it is added
    /// again.
    #[test]
    fn what_follows_shared_rows_comes_back() {
        let mut extent = Extent::new(GROUP, Growth::Group, Limit::NONE);
        (0..GROUP + 3).for_each(|row| add(&mut extent, row..row + 1));
        let (shared, others) = extent.share();
        assert_eq!((shared.len(), extent.len(), extent.capacity), (1, GROUP, GROUP));
        let [others] = &others[..] else { panic!("{}", others.len()) };
        assert_eq!(others.0.borrow()[..3], [GROUP, GROUP + 1, GROUP + 2]);
    }
}
