//! A GPU that is simulated on the CPU, for tests: `kernels/cpu.h` is its other half.
//!
//! The lanes of a group are coroutines. Each runs until it waits for the others (at a barrier, or where lanes exchange values);
//! when all of them wait, they must wait at the same place. The order in which they run is drawn anew for each turn: what
//! depends on it is a race.

mod run;

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::DeviceError;
use crate::launch::{ARGUMENTS, Launch, Place, View};
use run::Group;

/// What a simulated device looks for, beside what it always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checks {
    /// Accesses outside of memory, races in shared memory, lanes that wait for different things.
    #[default]
    Bounds,
    /// Races between threads in the device's memory, too: each byte remembers who touched it.
    Races,
}

/// The device. Clones are the same.
#[derive(Debug, Clone)]
pub struct Shim {
    checks: Checks,
    seed: Arc<AtomicU64>,
}

/// Memory of the device: of the process.
#[derive(Debug)]
pub(crate) struct Allocation(Box<[std::cell::UnsafeCell<u64>]>);

// SAFETY: it is only reached by kernels and copies, which run one after the other.
unsafe impl Sync for Allocation {}

impl Allocation {
    pub(crate) fn new(bytes: usize) -> Result<Self, DeviceError> {
        let words = bytes.div_ceil(size_of::<u64>());
        let mut held = Vec::new();
        held.try_reserve_exact(words)
            .map_err(|error| DeviceError::Memory { bytes, reason: error.to_string() })?;
        held.resize_with(words, Default::default);
        Ok(Self(held.into_boxed_slice()))
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place::Address(self.0.as_ptr() as u64, PhantomData)
    }
}

/// As `Buffer` in `kernels/cpu.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    start: *mut u8,
    bytes: u64,
    shadow: *mut Shadow,
}

/// As `Shadow` in `kernels/cpu.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Shadow([u32; 4]);

/// As `Launch` in `kernels/cpu.h`.
#[repr(C)]
struct RawLaunch {
    buffers: [Buffer; ARGUMENTS + 1],
    constants: *const u32,
    groups: u32,
    fault: u32,
    fault_line: u32,
}

unsafe extern "C" {
    fn sparkv_shim_kernel(name: *const std::ffi::c_char) -> *mut c_void;
}

impl Shim {
    /// A device whose schedules follow from `seed`.
    ///
    /// # Errors
    /// If it was left out of this build, since there was no C++ compiler.
    pub fn new(checks: Checks, seed: u64) -> Result<Self, DeviceError> {
        // SAFETY: a string that ends.
        if unsafe { sparkv_shim_kernel(c"append".as_ptr()) }.is_null() {
            return Err(DeviceError::Missing { what: "a C++ compiler, when the simulated device was built" });
        }
        Ok(Self { checks, seed: Arc::new(AtomicU64::new(seed)) })
    }

    pub(crate) fn upload(&self, to: View<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        let address = to.place.address("upload")?;
        // SAFETY: the view has as many bytes, and nothing else runs.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    pub(crate) fn download(&self, from: View<'_>, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let address = from.place.address("download")?;
        // SAFETY: the view has as many bytes, and nothing else runs.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// # Safety
    /// As [`crate::Device::launch`]. (Reaching further is an error here, unless a view is not what it says.)
    pub(crate) unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let failed = |reason: String| DeviceError::Launch { kernel: launch.kernel, reason };
        let name = CString::new(launch.kernel).map_err(|error| failed(error.to_string()))?;
        // SAFETY: a string that ends.
        let kernel = unsafe { sparkv_shim_kernel(CStr::as_ptr(&name)) };
        if kernel.is_null() {
            return Err(failed("there is no such kernel".into()));
        }
        let constants = launch.constants.named().map(|(_, value)| value);
        let mut plan = launch.plan.to_vec();
        let mut shadows = Vec::new();
        let none = Buffer { start: std::ptr::null_mut(), bytes: 0, shadow: std::ptr::null_mut() };
        let mut buffers = [none; ARGUMENTS + 1];
        for (buffer, view) in buffers.iter_mut().zip(launch.arguments) {
            let address = view.place.address(launch.kernel)?;
            *buffer = Buffer { start: address as *mut u8, bytes: view.bytes() as u64, ..none };
            if self.checks == Checks::Races {
                let mut shadow = vec![Shadow::default(); view.bytes()];
                buffer.shadow = shadow.as_mut_ptr();
                shadows.push(shadow);
            }
        }
        buffers[ARGUMENTS] = Buffer { start: plan.as_mut_ptr().cast(), bytes: 4 * plan.len() as u64, ..none };
        let groups = u32::try_from(launch.groups).map_err(|error| failed(error.to_string()))?;
        let mut raw = RawLaunch { buffers, constants: constants.as_ptr(), groups, fault: 0, fault_line: 0 };
        for group in 0..groups {
            let seed = self.seed.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the buffers are there until the end of this function, and it is a kernel.
            let met = unsafe { Group { kernel, launch: &mut raw, group }.run(seed) };
            if let Some(reason) = run::fault(raw.fault) {
                return Err(failed(format!("group {group}: {reason} (after line {})", raw.fault_line)));
            }
            met.map_err(|lines| failed(format!("group {group}: lanes wait at different lines: {lines}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::device::Device;
    use crate::kernel::Constants;

    /// What `kernel` of kernels/faults.inc ends with, over two groups.
    fn run(device: &Device, kernel: &'static str) -> Result<(), String> {
        let memory = device.allocate(4 * 64).unwrap();
        let constants = Constants::NONE;
        let groups = if kernel == "fault_none" { 1 } else { 2 };
        let launch = Launch { kernel, constants, groups, arguments: &[memory.view()], plan: &[] };
        // SAFETY: nothing can be reached but what the simulated device checks.
        unsafe { device.launch(&launch) }.map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_gpu_forgives_is_found() {
        for (kernel, fault) in [
            ("fault_bounds", "outside of a buffer"),
            ("fault_shared_race", "race in shared memory"),
            ("fault_memory_race", "race in the device's memory"),
            ("fault_groups_race", "race in the device's memory"),
            ("fault_shuffle", "some ended: true"),
            ("fault_mma", "some ended: true"),
            ("fault_sites", "different lines"),
            ("fault_lane", "a lane that there is not"),
            ("fault_missing", "no such kernel"),
        ] {
            for seed in 0..5 {
                let Some(device) = Device::simulated(Checks::Races, seed) else { return };
                let error = run(&device, kernel).unwrap_err();
                // Where a word is read before it is written, that is found first.
                let unset = kernel == "fault_shared_race" && error.contains("nobody wrote");
                assert!(error.contains(fault) || unset, "{kernel}: {error}");
            }
        }
    }

    #[test]
    fn what_is_in_order_runs() {
        for seed in 0..5 {
            let Some(device) = Device::simulated(Checks::Races, seed) else { return };
            run(&device, "fault_none").unwrap();
        }
    }

    /// Small whole numbers, whose sums are exact in any order, and then any numbers.
    #[test]
    fn matrices_are_multiplied() {
        for seed in 0..6 {
            let Some(device) = Device::simulated(Checks::Races, seed) else { return };
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let is_whole = seed % 2 == 0;
            let mut draw = || match is_whole {
                true => f16::from_f32(random.random_range(-8..=8) as f32),
                false => {
                    f16::from_f32(random.random_range(-1.0..1.0) * 2f32.powi(random.random_range(-20..10)))
                }
            };
            let [a, b]: [Vec<f16>; 2] = [256, 128].map(|count| (0..count).map(|_| draw()).collect());
            let c: Vec<f32> = (0..128).map(|_| draw().to_f32()).collect();
            let mut out = c.clone();
            let [a_bits, b_bits] =
                [&a, &b].map(|m| m.iter().map(|value| value.to_bits()).collect::<Vec<u16>>());
            let launch = Launch {
                kernel: "matrix_product",
                constants: Constants::NONE,
                groups: 1,
                arguments: &[View::of_host(&a_bits), View::of_host(&b_bits), View::of_host_mut(&mut out)],
                plan: &[],
            };
            // SAFETY: the matrices are as large as the kernel says.
            unsafe { device.launch(&launch) }.unwrap();
            for (at, out) in out.iter().enumerate() {
                let (row, column) = (at / 8, at % 8);
                let terms = (0..16).map(|k| a[16 * row + k].to_f64() * b[8 * k + column].to_f64());
                let (exact, size) = terms
                    .fold((f64::from(c[at]), f64::from(c[at].abs())), |(sum, size), term| {
                        (sum + term, size + term.abs())
                    });
                let allowed = if is_whole { 0.0 } else { 1e-6 * size };
                assert!((f64::from(*out) - exact).abs() <= allowed, "{row}, {column}: {out} for {exact}");
            }
        }
    }
}
