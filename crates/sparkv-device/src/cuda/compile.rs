//! Kernels compiled for the GPU at hand, by NVRTC.

use std::ffi::{CString, c_char};

use cudarc::nvrtc::result::{
    NvrtcError, compile_program, create_program, destroy_program, get_program_log, get_ptx,
};
use cudarc::nvrtc::sys;

use crate::error::DeviceError;
use crate::kernel::{self, Constants};

/// What a kernel is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Code of GPUs of this compute capability (90 for 9.0), and of those with the same first digit that came later.
    Machine(u32),
    /// PTX, of which the driver makes the code of any later GPU, if it knows this release of PTX.
    Ptx(u32),
}

impl Target {
    /// What runs on a GPU of this capability, of what the compiler makes code for; `None` if nothing does.
    ///
    /// Code is better than PTX: no driver is too old for it that has CUDA's major version.
    pub fn of(capability: u32, supported: &[u32]) -> Option<Self> {
        let up_to = |of: &dyn Fn(u32) -> bool| {
            supported.iter().copied().filter(|&each| each <= capability && of(each)).max()
        };
        let generation = up_to(&|each| each / 10 == capability / 10);
        generation.map(Self::Machine).or_else(|| up_to(&|_| true).map(Self::Ptx))
    }

    fn option(self) -> String {
        match self {
            Self::Machine(capability) => format!("--gpu-architecture=sm_{capability}"),
            Self::Ptx(capability) => format!("--gpu-architecture=compute_{capability}"),
        }
    }
}

/// Results are the same on every device: products are not fused with sums, small numbers not made zero, and divisions and
/// roots are rounded to nearest.
const OPTIONS: [&str; 5] =
    ["--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"];

/// The text of a kernel, and what is asked of the compiler.
#[derive(Debug)]
pub struct Program {
    kernel: &'static str,
    text: String,
    target: Target,
}

/// What came of it.
#[derive(Debug)]
pub struct Compiled {
    /// What the driver loads.
    pub image: Vec<u8>,
    /// What the compiler said; for [`Target::Machine`] with the kernel's registers and memory.
    pub log: String,
}

impl Program {
    /// One kernel, with these constants.
    pub fn new(kernel: &'static str, constants: &Constants, target: Target) -> Self {
        let text = kernel::source(kernel::CUDA, constants) + &format!("ENTRY({kernel})\n");
        Self { kernel, text, target }
    }

    fn options(&self) -> Vec<String> {
        let mut options = OPTIONS.map(str::to_owned).to_vec();
        options.push(self.target.option());
        if let Target::Machine(_) = self.target {
            options.push("--ptxas-options=-v".to_owned());
        }
        options
    }

    /// Everything that the result depends on.
    pub(crate) fn key(&self) -> String {
        let (major, minor) = version();
        format!("NVRTC {major}.{minor}\n{}\n{}", self.options().join(" "), self.text)
    }

    /// Compiles it. Needs no GPU and no driver.
    ///
    /// # Errors
    /// If the compiler lacks a part or refuses the text.
    pub fn compile(&self) -> Result<Compiled, DeviceError> {
        let failed = |reason: String| DeviceError::Launch { kernel: self.kernel, reason };
        let text = CString::new(self.text.as_str()).map_err(|error| failed(error.to_string()))?;
        let made = create_program(&text, None).map_err(|error| failed(error.to_string()))?;
        let program = Held(made);
        // SAFETY: a program that is not destroyed yet.
        let compiled = unsafe { compile_program(program.0, &self.options()) };
        let log = program.log();
        match compiled {
            Ok(()) => {}
            Err(NvrtcError(sys::nvrtcResult::NVRTC_ERROR_BUILTIN_OPERATION_FAILURE)) => {
                return Err(DeviceError::Unsupported { reason: without_builtins() });
            }
            Err(error) => return Err(failed(format!("NVRTC does not compile it: {error}\n{log}"))),
        }
        let image = match self.target {
            Target::Machine(_) => program.machine_code(),
            Target::Ptx(_) => program.ptx(),
        };
        Ok(Compiled { image: image.map_err(|error| failed(error.to_string()))?, log })
    }
}

fn without_builtins() -> String {
    let (major, minor) = version();
    format!(
        "NVRTC {major}.{minor} does not find libnvrtc-builtins.so.{major}.{minor}: install the toolkit's package of NVRTC as a \
         whole, or name the folder of both in LD_LIBRARY_PATH"
    )
}

/// The release of the compiler: that of the CUDA toolkit that it came with.
pub(super) fn version() -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers to be written.
    let _ = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major.unsigned_abs(), minor.unsigned_abs())
}

/// Compute capabilities that the compiler makes code for, 90 for 9.0.
pub(super) fn supported() -> Vec<u32> {
    let mut count = 0;
    // SAFETY: a number to be written.
    let counted = unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) };
    let mut capabilities = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: room for as many as it says there are.
    let listed = unsafe { sys::nvrtcGetSupportedArchs(capabilities.as_mut_ptr()) };
    match counted.result().and(listed.result()) {
        Ok(()) => capabilities.into_iter().filter_map(|each| u32::try_from(each).ok()).collect(),
        Err(_) => Vec::new(),
    }
}

/// A program of the compiler's, destroyed in the end.
struct Held(sys::nvrtcProgram);

impl Held {
    fn log(&self) -> String {
        // SAFETY: a program that is not destroyed yet.
        let log = unsafe { get_program_log(self.0) }.unwrap_or_default();
        String::from_utf8_lossy(bytemuck::cast_slice::<c_char, u8>(&log))
            .trim_matches(['\0', '\n', ' '])
            .to_owned()
    }

    /// PTX, with the zero that ends it.
    fn ptx(&self) -> Result<Vec<u8>, NvrtcError> {
        // SAFETY: a program that is not destroyed yet.
        let text = unsafe { get_ptx(self.0) }?;
        let mut text = bytemuck::cast_slice::<c_char, u8>(&text).to_vec();
        if text.last() != Some(&0) {
            text.push(0);
        }
        Ok(text)
    }

    fn machine_code(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: a program that is not destroyed yet, and a number to be written.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) }.result()?;
        let mut code = vec![0_u8; bytes];
        // SAFETY: there is room for as many bytes.
        unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()) }.result()?;
        Ok(code)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used any more.
        let _ = unsafe { destroy_program(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_generation_is_chosen_before_ptx() {
        let supported = [75, 80, 86, 89, 90, 100, 120];
        for (capability, target) in [
            (80, Some(Target::Machine(80))),
            (87, Some(Target::Machine(86))),
            (90, Some(Target::Machine(90))),
            (103, Some(Target::Machine(100))),
            (121, Some(Target::Machine(120))),
            (130, Some(Target::Ptx(120))),
            (110, Some(Target::Ptx(100))),
            (75, Some(Target::Machine(75))),
            (70, None),
        ] {
            assert_eq!(Target::of(capability, &supported), target, "{capability}");
        }
        assert_eq!(Target::of(61, &[50, 61, 70]), Some(Target::Machine(61)));
    }
}
