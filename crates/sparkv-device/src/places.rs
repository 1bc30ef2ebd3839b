//! Dense rows that kernels read, from wherever they lie.

use std::ops::Range;

use sparkv_kernels::{GROUP, Side};

use crate::append::RowPlace;
use crate::error::DeviceError;
use crate::launch::{View, words};
use crate::rows::{LINE, Run, Units};

/// Rows of every KV head, as many of each.
#[derive(Debug, Clone, Copy)]
pub enum Places<'a> {
    /// The same rows of all heads.
    Same(&'a [RowPlace]),
    /// Other rows of each head.
    PerHead(&'a [Vec<RowPlace>]),
}

impl Places<'_> {
    /// Rows of each head.
    pub fn len(&self) -> usize {
        match self {
            Self::Same(rows) => rows.len(),
            Self::PerHead(heads) => heads.first().map_or(0, Vec::len),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All places, of one head after the other where they are not the same.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RowPlace> {
        let (same, heads) = match self {
            Self::Same(rows) => (*rows, &[][..]),
            Self::PerHead(heads) => (&[][..], *heads),
        };
        same.iter().chain(heads.iter().flatten())
    }

    /// Adds to `plan` where the rows are (`kernels/places.inc`), which are checked to be dense ones of `units` in `pool`.
    pub(crate) fn write(
        &self,
        kernel: &'static str,
        units: &Units,
        pool: &View<'_>,
        plan: &mut Vec<u32>,
    ) -> Result<(), DeviceError> {
        check_dense(kernel, units)?;
        let count = self.len();
        if let Self::PerHead(heads) = self
            && (heads.len() != units.heads || heads.iter().any(|rows| rows.len() != count))
        {
            return Err(DeviceError::unfit(kernel, "not as many rows of each head"));
        }
        let stride = if matches!(self, Self::Same(_)) { 0 } else { count.saturating_mul(2) };
        plan.extend(words(kernel, [count, stride])?);
        for place in self.iter() {
            plan.extend(unit_of(kernel, units, pool, place)?);
        }
        Ok(())
    }
}

/// Checks that units hold dense rows, of as many channels on both sides.
pub(crate) fn check_dense(kernel: &'static str, units: &Units) -> Result<(), DeviceError> {
    if !units.is_dense() {
        return Err(DeviceError::unfit(
            kernel,
            "rows of quantized blocks are not read or written one by one",
        ));
    }
    check_sides(kernel, units)
}

/// Checks that a unit is of keys and values of as many channels.
pub(crate) fn check_sides(kernel: &'static str, units: &Units) -> Result<(), DeviceError> {
    let Units { keys, values, .. } = units;
    if keys.head_dim() != values.head_dim() || (keys.side(), values.side()) != (Side::Keys, Side::Values) {
        return Err(DeviceError::unfit(kernel, "layouts that are not those of keys and their values"));
    }
    Ok(())
}

/// The line of the unit in which a row is, and the row in there; checked.
pub(crate) fn unit_of(
    kernel: &'static str,
    units: &Units,
    pool: &View<'_>,
    place: &RowPlace,
) -> Result<[u32; 2], DeviceError> {
    units.check(kernel, pool, &[Run { line: place.line, rows: place.row.saturating_add(1) }])?;
    let (unit, row) = (place.row as usize / units.rows(), place.row as usize % units.rows());
    let line = u32::try_from(units.address(place.line, unit, 0, Side::Keys) / LINE);
    match line {
        Ok(line) => Ok([line, row as u32]),
        Err(_) => Err(DeviceError::unfit(kernel, format!("{place:?} lies behind what lines can name"))),
    }
}

/// Checks that no unit of `units` in which one of `places` is overlaps with `written`, in lines.
pub(crate) fn check_apart(
    kernel: &'static str,
    units: &Units,
    places: Places<'_>,
    mut written: Vec<Range<usize>>,
) -> Result<(), DeviceError> {
    written.sort_unstable_by_key(|lines| lines.start);
    let lines = units.bytes() / LINE;
    let mut before = usize::MAX;
    for place in places.iter() {
        let first = place.line as usize + place.row as usize / GROUP * lines;
        // Rows that follow one another are in the same unit.
        if std::mem::replace(&mut before, first) == first {
            continue;
        }
        let next = written.partition_point(|range| range.end <= first);
        if written.get(next).is_some_and(|range| range.start < first + lines) {
            return Err(DeviceError::unfit(kernel, format!("{place:?} lies where rows are written")));
        }
    }
    Ok(())
}
