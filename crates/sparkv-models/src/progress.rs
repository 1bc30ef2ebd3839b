//! Progress of what takes long.

/// What the numbers of a task count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a download.
    Bytes,
    /// Layers of a model.
    Layers,
}

/// Something that takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task<'a> {
    /// What it is about, e.g. a file's name.
    pub name: &'a str,
    /// Where it ends.
    pub total: u64,
    /// What `total` counts.
    pub unit: Unit,
}

/// Hears of progress, one task after the other. `()` does not care.
pub trait Progress: Sync {
    /// A task begins.
    fn begin(&self, task: &Task<'_>);
    /// This much of it was done; may come from several threads.
    fn advance(&self, amount: u64);
    /// It is done.
    fn end(&self);
}

impl Progress for () {
    fn begin(&self, _task: &Task<'_>) {}
    fn advance(&self, _amount: u64) {}
    fn end(&self) {}
}
