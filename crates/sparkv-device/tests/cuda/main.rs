//! What can be known of kernels on CUDA without a GPU: NVRTC compiles them, and says what they take. Needs its library (as
//! scripts/devices/registers has it), and no driver.

#[cfg(test)]
mod compiled;
#[cfg(test)]
mod specialisations;
