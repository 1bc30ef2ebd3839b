//! Compiles the kernels for the simulated device, where that is wanted.

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    #[cfg(feature = "shim")]
    shim();
}

/// Where there is no C++ compiler, tests are to say so: whoever has none can build everything else.
#[cfg(feature = "shim")]
fn shim() {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .file("kernels/cpu.cpp")
        // Bytes are the same on every device: a product and a sum are rounded each by itself.
        .flag("-ffp-contract=off")
        .flag_if_supported("-Wno-unused-function")
        .flag_if_supported("-Wno-unused-parameter")
        .opt_level(2);
    if let Err(error) = build.try_compile("sparkv_kernels_cpu") {
        println!("cargo:warning=the simulated device is left out: {error}");
        cc::Build::new().file("kernels/none.c").compile("sparkv_kernels_none");
    }
}
