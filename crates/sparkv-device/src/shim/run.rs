//! One group of lanes, run to its end.

use std::cell::RefCell;
use std::ffi::c_void;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::RawLaunch;

/// Lanes of a group.
const LANES: usize = 32;

/// Bytes of a lane's stack.
const STACK: usize = 128 << 10;

unsafe extern "C" {
    fn sparkv_shim_warp(launch: *mut RawLaunch, group: u32) -> *mut c_void;
    fn sparkv_shim_free(warp: *mut c_void);
    fn sparkv_shim_run(
        kernel: *mut c_void,
        warp: *mut c_void,
        coroutine: *const c_void,
        lane: u32,
        site: *mut *const u32,
    );
}

/// Called by a lane that waits for the others.
#[unsafe(no_mangle)]
extern "C" fn sparkv_shim_wait(coroutine: *const c_void) {
    // SAFETY: what the lane was started with, on whose stack this is called.
    let yielder = unsafe { &*coroutine.cast::<Yielder<(), ()>>() };
    yielder.suspend(());
}

/// What a fault in `kernels/cpu.h` means.
pub(super) fn fault(code: u32) -> Option<&'static str> {
    Some(match code {
        0 => return None,
        1 => "memory outside of a buffer",
        2 => "shared memory outside of an array",
        3 => "shared memory that nobody wrote",
        4 => "a race in shared memory",
        5 => "a race in the device's memory",
        6 => "a lane that there is not",
        _ => "an unknown fault",
    })
}

/// A group to be run.
pub(super) struct Group<'a> {
    pub(super) kernel: *mut c_void,
    pub(super) launch: &'a mut RawLaunch,
    pub(super) group: u32,
}

thread_local! {
    /// Stacks of lanes that ended, for the next group: to map memory takes longer than most groups.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

type Lane = Coroutine<(), (), (), DefaultStack>;

impl Group<'_> {
    /// Runs all lanes, in an order that follows from `seed`. Gives the lines where they wait, if these differ.
    ///
    /// # Safety
    /// The launch's buffers are there, and the kernel is one.
    pub(super) unsafe fn run(self, seed: u64) -> Result<(), String> {
        let Self { kernel, launch, group } = self;
        // SAFETY: the launch outlives the warp.
        let warp = unsafe { sparkv_shim_warp(launch, group) };
        let mut sites: [*const u32; LANES] = [std::ptr::null(); LANES];
        let mut lanes: Vec<Lane> = Vec::with_capacity(LANES);
        for (lane, site) in (0..).zip(&mut sites) {
            let site: *mut *const u32 = site;
            let stack = match STACKS.with_borrow_mut(Vec::pop) {
                Some(stack) => stack,
                None => DefaultStack::new(STACK).map_err(|error| error.to_string())?,
            };
            lanes.push(Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
                let coroutine: *const Yielder<(), ()> = yielder;
                // SAFETY: as the caller promises; `site` is there as long as the lanes are.
                unsafe { sparkv_shim_run(kernel, warp, coroutine.cast(), lane, site) };
            }));
        }
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut order: Vec<usize> = (0..LANES).collect();
        let mut result = Ok(());
        loop {
            shuffle(&mut order, &mut random);
            let mut waiting = Vec::new();
            for &lane in &order {
                if let CoroutineResult::Yield(()) = lanes[lane].resume(()) {
                    // SAFETY: set by the lane before it waits, on its stack.
                    waiting.push(unsafe { *sites[lane] });
                }
            }
            let Some(&first) = waiting.first() else { break };
            if waiting.len() < LANES || waiting.iter().any(|site| *site != first) {
                waiting.sort_unstable();
                waiting.dedup();
                result = Err(format!("{waiting:?}, some ended: {}", waiting.len() < LANES));
                break;
            }
        }
        for mut lane in lanes {
            if !lane.done() {
                // SAFETY: what a lane holds has no destructors that matter; its stack is used again.
                unsafe { lane.force_reset() };
            }
            STACKS.with_borrow_mut(|stacks| stacks.push(lane.into_stack()));
        }
        // SAFETY: no lane runs any more.
        unsafe { sparkv_shim_free(warp) };
        result
    }
}

/// Draws an order (xorshift).
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        order.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}
