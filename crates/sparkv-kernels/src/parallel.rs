//! The one pool of threads that computes.
//!
//! Work is cut into pieces that threads **claim** one after the other from a counter: a thread that the system has taken its
//! processor from costs the piece it is at, and whoever was faster does the rest. The caller works, too, and waits for pieces
//! that are being worked on, never for a thread that has none. Who finds nothing spins for some microseconds, since
//! the next matrix product is about to come, and then sleeps: a thread that spins longer takes time from neighbours, and is
//! made to pay for it when there is work.
//!
//! Work that comes while the pool is taken, from another thread or from within a piece, is done by whoever brings it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::available_parallelism;

/// How often a thread looks for work, or for the end of it, before it sleeps: some ten microseconds.
const SPINS: usize = 1 << 10;

/// What is called with the number of a piece.
type Work = dyn Fn(usize) + Sync;

/// The work that pieces are claimed from.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work,
    pieces: usize,
}

struct Pool {
    /// Threads that compute, with the caller.
    threads: usize,
    /// Whoever has it may change `job`.
    owner: Mutex<()>,
    job: UnsafeCell<Option<Job>>,
    /// Pieces that nobody has claimed.
    unclaimed: AtomicUsize,
    /// Pieces that are not done.
    undone: AtomicUsize,
    /// Threads that sleep, but for the caller.
    sleepers: AtomicUsize,
    /// Whether the caller does.
    caller_sleeps: AtomicBool,
    /// What threads do before they sleep on.
    chore: Mutex<Chore>,
    wake: Condvar,
    done: Condvar,
    /// What the first piece that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Something that every thread of the pool is to do once.
#[derive(Clone, Copy)]
struct Chore {
    /// How many there were so far.
    count: usize,
    work: fn(),
}

// SAFETY: `job` alone is not safe to share. It is written by the owner while nothing is unclaimed or undone, and read
// by those who have claimed a piece and not done it yet.
#[expect(unsafe_code, reason = "a job that lives in its caller's frame; see SAFETY")]
unsafe impl Sync for Pool {}

static THREADS: OnceLock<NonZeroUsize> = OnceLock::new();

/// How many threads compute: as many as [`set_threads`] said, else as many as this process may run at once, which a
/// container's quota and the threads' affinity bound.
pub fn threads() -> NonZeroUsize {
    *THREADS.get_or_init(|| available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

/// Says how many threads are to compute, the caller of the work among them; false if that has been settled.
pub fn set_threads(count: NonZeroUsize) -> bool {
    THREADS.set(count).is_ok()
}

/// Calls `work` with every number below `pieces`, on all threads, and returns when all is done.
///
/// # Panics
/// If a piece panics, with what it said; after the other pieces.
pub fn run(pieces: usize, work: impl Fn(usize) + Sync) {
    if pieces > 1
        && let Some(pool) = pool()
        && let Ok(owner) = pool.owner.try_lock()
    {
        pool.run(pieces, &work, owner);
    } else {
        run_alone(pieces, &work);
    }
}

/// The same on this thread alone.
fn run_alone(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    let panics = (0..pieces).filter_map(|piece| catch_unwind(AssertUnwindSafe(|| work(piece))).err());
    if let Some(first) = panics.reduce(|first, _| first) {
        resume_unwind(first);
    }
}

/// What `compute` gives for each number below `count`.
pub fn map<T: Send + Sync>(count: usize, compute: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    run(count, |index| {
        if let Some(result) = results.get(index) {
            result.get_or_init(|| compute(index));
        }
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// What `change` gives for each of `items` and its index.
pub fn map_mut<I: Send, T: Send + Sync>(
    items: &mut [I],
    change: impl Fn(usize, &mut I) -> T + Sync,
) -> Vec<T> {
    let items = takeable(items);
    map(items.len(), |index| change(index, &mut lock(&items[index])))
}

/// Calls `change` with each of `items` and its index.
pub fn for_each<T: Send>(items: &mut [T], change: impl Fn(usize, &mut T) + Sync) {
    let items = takeable(items);
    run(items.len(), |index| change(index, &mut lock(&items[index])));
}

/// Items as threads take them: never contended, since each is taken once.
fn takeable<T>(items: &mut [T]) -> Vec<Mutex<&mut T>> {
    items.iter_mut().map(Mutex::new).collect()
}

/// Has every thread of the pool do `chore` soon, the caller at once.
pub fn on_every_thread(chore: fn()) {
    if let Some(pool) = pool() {
        let mut last = lock(&pool.chore);
        *last = Chore { count: last.count + 1, work: chore };
        pool.wake.notify_all();
    }
    chore();
}

/// The pool; `None` where one thread computes.
fn pool() -> Option<&'static Pool> {
    static POOL: OnceLock<Option<&'static Pool>> = OnceLock::new();
    *POOL.get_or_init(|| Pool::start(threads().get()))
}

/// Nothing that is locked here can be left half changed.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Threads that stay as long as the process. Fewer where the system gives no more.
    fn start(threads: usize) -> Option<&'static Self> {
        if threads < 2 {
            return None;
        }
        let pool: &'static Self = Box::leak(Box::new(Self {
            threads,
            owner: Mutex::new(()),
            job: UnsafeCell::new(None),
            unclaimed: AtomicUsize::new(0),
            undone: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            chore: Mutex::new(Chore { count: 0, work: || () }),
            wake: Condvar::new(),
            done: Condvar::new(),
            panic: Mutex::new(None),
        }));
        for index in 1..threads {
            let builder = std::thread::Builder::new().name(format!("compute-{index}"));
            if builder.spawn(|| pool.work()).is_err() {
                break;
            }
        }
        Some(pool)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut chores = 0;
        loop {
            while self.piece() {}
            if spin(|| self.unclaimed.load(Ordering::Relaxed) > 0) {
                continue;
            }
            let mut chore = lock(&self.chore);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while chore.count == chores && self.unclaimed.load(Ordering::SeqCst) == 0 {
                chore = self.wake.wait(chore).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            let Chore { count, work } = *chore;
            drop(chore);
            if count != chores {
                chores = count;
                work();
            }
        }
    }

    fn run(&self, pieces: usize, work: &(dyn Fn(usize) + Sync), owner: MutexGuard<'_, ()>) {
        // SAFETY: only the lifetime changes. Nobody calls it but for pieces that are not done, and this function
        // does not return before all are.
        #[expect(unsafe_code, reason = "threads outlive the work they do; see SAFETY")]
        let work = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Work>(work) };
        // SAFETY: the owner's right, since all pieces of the last job are done.
        #[expect(unsafe_code, reason = "see `job`")]
        unsafe {
            *self.job.get() = Some(Job { work, pieces });
        }
        self.undone.store(pieces, Ordering::Relaxed);
        self.unclaimed.store(pieces, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _chore = lock(&self.chore);
            for _ in 1..pieces.min(self.threads) {
                self.wake.notify_one();
            }
        }
        while self.piece() {}
        let is_done = || self.undone.load(Ordering::Acquire) == 0;
        if !spin(is_done) {
            let mut chore = lock(&self.chore);
            self.caller_sleeps.store(true, Ordering::SeqCst);
            while self.undone.load(Ordering::SeqCst) != 0 {
                chore = self.done.wait(chore).unwrap_or_else(PoisonError::into_inner);
            }
            self.caller_sleeps.store(false, Ordering::SeqCst);
        }
        let panic = lock(&self.panic).take();
        drop(owner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Claims a piece and does it; false if there is none.
    fn piece(&self) -> bool {
        let claim = |unclaimed: usize| unclaimed.checked_sub(1);
        let Ok(unclaimed) = self.unclaimed.fetch_update(Ordering::SeqCst, Ordering::Relaxed, claim) else {
            return false;
        };
        // SAFETY: this thread has claimed a piece, so that the job stays as it is.
        #[expect(unsafe_code, reason = "see `job`")]
        let job = unsafe { *self.job.get() };
        if let Some(Job { work, pieces }) = job {
            let piece = AssertUnwindSafe(|| {
                // SAFETY: as above; whoever brought it waits.
                #[expect(unsafe_code, reason = "see `run`")]
                let work = unsafe { &*work };
                work(pieces - unclaimed);
            });
            if let Err(panic) = catch_unwind(piece) {
                lock(&self.panic).get_or_insert(panic);
            }
        }
        if self.undone.fetch_sub(1, Ordering::SeqCst) == 1 && self.caller_sleeps.load(Ordering::SeqCst) {
            let _chore = lock(&self.chore);
            self.done.notify_all();
        }
        true
    }
}

/// Waits for a moment; whether it became so.
fn spin(is_so: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if is_so() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for pieces in [0, 1, 2, 3, 7, 100, 1000] {
            for _ in 0..50 {
                let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                run(pieces, |piece| {
                    done[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn work_within_work_and_from_several_threads_is_done() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let sums = map(20, |outer| map(10, |inner| outer * inner).into_iter().sum::<usize>());
                        assert_eq!(sums, (0..20).map(|outer| 45 * outer).collect::<Vec<_>>());
                    }
                });
            }
        });
    }

    #[test]
    fn after_a_pause_threads_wake_up() {
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let mut items: Vec<usize> = (0..100).collect();
            for_each(&mut items, |index, item| *item += index);
            assert_eq!(items, (0..100).map(|index| 2 * index).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_thread_does_a_chore_once() {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        on_every_thread(|| {
            DONE.fetch_add(1, Ordering::Relaxed);
        });
        let start = std::time::Instant::now();
        while DONE.load(Ordering::Relaxed) < threads().get() {
            assert!(start.elapsed().as_secs() < 60, "{DONE:?} of {}", threads());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(DONE.load(Ordering::Relaxed), threads().get());
    }

    #[test]
    fn a_panic_reaches_the_caller_after_all_other_pieces() {
        let alone: fn(usize, &(dyn Fn(usize) + Sync)) = run_alone;
        for run in [alone, |pieces, work| run(pieces, work)] {
            let done = AtomicUsize::new(0);
            let panic = catch_unwind(AssertUnwindSafe(|| {
                run(64, &|piece| {
                    assert_ne!(piece, 13, "unlucky");
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let panic = *panic.unwrap_err().downcast::<String>().unwrap();
            assert!(panic.contains("unlucky"), "{panic}");
            assert_eq!(done.into_inner(), 63);
        }
        assert_eq!(map(3, |index| index), [0, 1, 2]);
    }
}
