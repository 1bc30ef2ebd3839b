//! Kernels, compiled when they are first launched. Metal has a cache of what it compiled on disk; what is loaded is kept here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_metal_kernels::metal::{ComputePipeline, Device, Library};
use objc2::rc::Retained;
use objc2_metal::{MTLCompileOptions, MTLComputePipelineState, MTLMathFloatingPointFunctions, MTLMathMode};

use super::LANES;
use crate::error::DeviceError;
use crate::kernel::{self, Constants};

/// The kernels of a GPU.
pub(super) struct Pipelines {
    device: Device,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    libraries: HashMap<Constants, Library>,
    pipelines: HashMap<(&'static str, Constants), ComputePipeline>,
}

impl Pipelines {
    pub(super) fn new(device: Device) -> Self {
        Self { device, loaded: Mutex::default() }
    }

    /// A kernel for these numbers.
    pub(super) fn get(
        &self,
        kernel: &'static str,
        constants: &Constants,
    ) -> Result<ComputePipeline, DeviceError> {
        let failed = |reason: String| DeviceError::Launch { kernel, reason };
        // A panic elsewhere leaves complete entries.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let Loaded { libraries, pipelines } = &mut *loaded;
        let key = (kernel, *constants);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let library = match libraries.get(constants) {
            Some(library) => library.clone(),
            None => {
                let source = kernel::source(kernel::METAL, constants);
                let library = self.device.new_library_with_source(&source, Some(&options()));
                let library = library.map_err(|error| failed(error.to_string()))?;
                libraries.entry(*constants).or_insert(library).clone()
            }
        };
        let function = library.get_function(kernel, None).map_err(|error| failed(error.to_string()))?;
        let pipeline = self.device.new_compute_pipeline_state_with_function(&function);
        let pipeline = pipeline.map_err(|error| failed(format!("{error}: {}", named(constants))))?;
        let width = pipeline.as_ref().threadExecutionWidth();
        if width != LANES {
            return Err(failed(format!("threads of this GPU run {width} at a time, not {LANES}")));
        }
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

/// Results are the same on every device, as far as Metal can: nothing is reordered, and functions are exact.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setMathMode(MTLMathMode::Safe);
    options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    options
}

fn named(constants: &Constants) -> String {
    constants.named().map(|(name, value)| format!("{name} {value}")).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RowConstants;
    use crate::metal::check;

    /// What is checked elsewhere is checked as another language; here is the compiler itself.
    #[test]
    fn all_kernels_compile() {
        let pipelines = Pipelines::new(check(0).unwrap());
        let rows = |format, bits, kept| RowConstants { format, bits, kept };
        for rows in
            [rows(0, 0, 0), rows(1, 0, 0), rows(2, 8, 0), rows(3, 4, 0), rows(3, 0, 0), rows(4, 8, 32)]
        {
            for (head_dim, queries) in [(64, 1), (64, 16), (128, 1), (128, 8)] {
                let constants = Constants { head_dim, queries, keys: rows, values: rows };
                for kernel in kernel::names() {
                    pipelines.get(kernel, &constants).unwrap();
                }
            }
        }
    }
}
