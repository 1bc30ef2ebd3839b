//! The kernels in Metal's language, where there is no Metal: clang reads them as C++ for OpenCL, whose kinds of memory are the
//! same (`kernels/proxy`). What it cannot know is whether Metal's own compiler understands the attributes of a kernel.
//!
//! Runs where there is a clang: `SPARKV_CLANG`, or one on the PATH.

#[cfg(test)]
mod language;
