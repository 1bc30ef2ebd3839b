//! The memory of all caches on a device: one buffer, taken once, in lines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sparkv_device::rows::LINE;
use sparkv_device::{Device, DeviceError, Memory, View, move_lines};

use super::lines::FreeLines;
use crate::accelerator::Accelerator;

/// Lines that are moved at a time where the free ones are brought together.
const MOVED: u32 = 1 << 19;

/// The memory. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct DeviceMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    accelerator: Accelerator,
    memory: Memory,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    free: FreeLines,
    /// What is held, by the first line.
    held: BTreeMap<u32, Weak<Range>>,
}

/// Lines that are held until this is dropped. Where they are may change whenever others are taken.
#[derive(Debug)]
pub(crate) struct HeldLines {
    range: Arc<Range>,
    memory: DeviceMemory,
}

/// Where lines are.
#[derive(Debug)]
pub(crate) struct Range {
    first: AtomicU32,
    lines: u32,
}

impl DeviceMemory {
    /// Takes `bytes` bytes of the device's memory.
    ///
    /// # Errors
    /// If there are not as many, or more than lines can be counted.
    pub(crate) fn new(accelerator: &Accelerator, bytes: u64) -> Result<Self, DeviceError> {
        let lines = u32::try_from(bytes / LINE as u64).unwrap_or(u32::MAX);
        let memory = accelerator.device().allocate(lines as usize * LINE)?;
        let lines = Mutex::new(Lines { free: FreeLines::new(0, lines), held: BTreeMap::new() });
        Ok(Self(Arc::new(Inner { accelerator: accelerator.clone(), memory, lines })))
    }

    /// Whether the other is the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where kernels run.
    pub(crate) fn device(&self) -> &Device {
        self.0.accelerator.device()
    }

    pub(crate) fn accelerator(&self) -> &Accelerator {
        &self.0.accelerator
    }

    /// All of it.
    pub(crate) fn view(&self) -> View<'_> {
        self.0.memory.view()
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.memory.bytes() as u64
    }

    /// Holds `bytes` bytes that follow one another, in whole lines. If there are none, while enough are free, all that is held
    /// is moved together: what was computed from [`HeldLines::first`] before is no more true then.
    ///
    /// # Errors
    /// If not as many are free.
    pub(crate) fn hold(&self, bytes: usize) -> Result<HeldLines, DeviceError> {
        let full = |free: u64| {
            let reason = format!("{} of the caches' {} are free", free * LINE as u64, self.bytes());
            DeviceError::Memory { bytes, reason }
        };
        let count = u32::try_from(bytes.div_ceil(LINE)).map_err(|_| full(0))?;
        let mut lines = self.lock();
        let mut first = lines.free.take(count);
        if first.is_none() && lines.free.total() >= u64::from(count) {
            self.move_together(&mut lines)?;
            first = lines.free.take(count);
        }
        let Some(first) = first else { return Err(full(lines.free.total())) };
        let range = Arc::new(Range { first: AtomicU32::new(first), lines: count });
        lines.held.insert(first, Arc::downgrade(&range));
        Ok(HeldLines { range, memory: self.clone() })
    }

    /// Moves all that is held to the beginning, in order.
    fn move_together(&self, lines: &mut Lines) -> Result<(), DeviceError> {
        let held: Vec<Arc<Range>> = lines.held.values().filter_map(Weak::upgrade).collect();
        let between = self.device().allocate(MOVED as usize * LINE)?;
        let (pool, between) = (self.view(), between.view());
        let mut end = 0;
        for range in &held {
            let first = range.first();
            if first > end {
                for start in (0..range.lines).step_by(MOVED as usize) {
                    let count = MOVED.min(range.lines - start);
                    move_lines(self.device(), (pool, first + start), (between, 0), count)?;
                    move_lines(self.device(), (between, 0), (pool, end + start), count)?;
                }
                range.first.store(end, Ordering::Relaxed);
            }
            end += range.lines;
        }
        lines.held = held.iter().map(|range| (range.first(), Arc::downgrade(range))).collect();
        lines.free = FreeLines::new(end, (self.bytes() / LINE as u64) as u32);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Whoever panicked left lines that are held by nobody, at worst.
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Range {
    /// The first line, until others are taken.
    pub(crate) fn first(&self) -> u32 {
        self.first.load(Ordering::Relaxed)
    }
}

impl HeldLines {
    /// The first line, until others are taken.
    pub(crate) fn first(&self) -> u32 {
        self.range.first()
    }

    /// What tells where they are for as long as they are held.
    pub(crate) fn range(&self) -> Arc<Range> {
        Arc::clone(&self.range)
    }

    /// They themselves, until others are taken.
    pub(crate) fn view(&self) -> Result<View<'_>, DeviceError> {
        self.memory.view().part(self.first() as usize * LINE, self.range.lines as usize * LINE)
    }
}

impl Drop for HeldLines {
    fn drop(&mut self) {
        let mut lines = self.memory.lock();
        lines.free.give(self.range.first(), self.range.lines);
        lines.held.remove(&self.range.first());
    }
}

#[cfg(test)]
mod tests {
    use sparkv_device::Checks;

    use super::*;

    /// Fills what is held with a number, and reads it.
    fn fill(held: &HeldLines, byte: u8) {
        let view = held.view().unwrap();
        held.memory.device().upload(view, &vec![byte; view.bytes()]).unwrap();
    }

    fn bytes(held: &HeldLines) -> Vec<u8> {
        let view = held.view().unwrap();
        let mut bytes = vec![0; view.bytes()];
        held.memory.device().download(view, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn free_lines_are_brought_together_where_they_are_needed() {
        let Some(accelerator) = Accelerator::simulated(Checks::Races, 1) else { return };
        let memory = DeviceMemory::new(&accelerator, 100 * LINE as u64).unwrap();
        let held: Vec<HeldLines> = (0..10).map(|_| memory.hold(10 * LINE).unwrap()).collect();
        held.iter().zip(0..).for_each(|(held, byte)| fill(held, byte));
        assert!(memory.hold(1).is_err());
        let kept: Vec<(u8, HeldLines)> = (0..).zip(held).filter(|(byte, _)| byte % 2 == 1).collect();
        // Fifty lines are free, in five pieces.
        let large = memory.hold(45 * LINE - 3).unwrap();
        fill(&large, 99);
        for (byte, held) in &kept {
            assert_eq!(bytes(held), vec![*byte; 10 * LINE]);
        }
        assert!(memory.hold(6 * LINE).is_err());
        drop(large);
        drop(kept);
        assert_eq!(memory.hold(100 * LINE).unwrap().first(), 0);
    }
}
