use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use sparkv_device::kernel::{Constants, METAL, source};
use sparkv_kernels::{Fill, Format, KeptFormat, Layout, Packing, Side, Widths};

/// Bytes of shared memory that a group may have.
const SHARED_BYTES: usize = 32 << 10;

/// A compiler, or none.
struct Clang(PathBuf);

impl Clang {
    fn find() -> Option<Self> {
        let named = std::env::var_os("SPARKV_CLANG").map(PathBuf::from);
        let found = named.into_iter().chain(["clang-19", "clang"].map(PathBuf::from));
        let runs =
            |path: &PathBuf| Command::new(path).arg("--version").stdout(Stdio::null()).status().is_ok();
        let clang = found.into_iter().find(runs).map(Self);
        if clang.is_none() {
            eprintln!("not run: no clang to read the kernels as Metal's");
        }
        clang
    }

    /// What it has against a module.
    fn check(&self, source: &str) -> Result<(), String> {
        // Metal has no numbers of 64 bits with a fraction, and no variables but in functions.
        let lacks = "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64,-__opencl_c_device_enqueue,\
                     -__opencl_c_program_scope_global_variables";
        let mut child = Command::new(&self.0)
            .args(["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-Xclang", lacks, "--target=spir64"])
            .args(["-fsyntax-only", "-Xclang", "-ast-dump", "-fno-color-diagnostics"])
            .args(["-Wall", "-Werror", "-Wno-unknown-attributes", "-Wno-unused-function"])
            .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/proxy"), "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let text = source.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        // A compiler that gives up before the end is asked for its reason, not the pipe.
        let _ = writer.join();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let tree = String::from_utf8_lossy(&output.stdout);
        if let Some(line) = tree.lines().find(|line| is_pointer_to_anything(line)) {
            return Err(format!("a pointer or reference that does not say to which memory: {line}"));
        }
        let mut shared = 0;
        for line in tree.lines() {
            if line.starts_with("|-FunctionDecl") || line.starts_with("`-FunctionDecl") {
                shared = 0;
            }
            shared += shared_bytes(line);
            if shared > SHARED_BYTES {
                return Err(format!("{shared} bytes of shared memory or more, with {line}"));
            }
        }
        Ok(())
    }
}

/// Whether a line of clang's tree declares a variable or parameter that points to any kind of memory. Metal has no such thing.
fn is_pointer_to_anything(line: &str) -> bool {
    let declares = line.contains("ParmVarDecl ") || line.contains("-VarDecl ");
    // A declaration that clang made itself has no name before its type.
    let Some((before, of_type)) = line.split_once('\'') else { return false };
    let name = before.split_whitespace().next_back().unwrap_or_default();
    let is_named = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && !["used", "referenced", "invalid"].contains(&name)
        && !name.starts_with("col:")
        && !name.starts_with("line:");
    declares && is_named && of_type.contains("__generic")
}

/// Bytes of the shared array that a line of clang's tree declares, if it does. All have words of 4 bytes.
fn shared_bytes(line: &str) -> usize {
    let length = line.contains("VarDecl ").then(|| line.split_once("'__local ")).flatten();
    let length =
        length.and_then(|(_, of_type)| of_type.split_once('[')?.1.split_once(']')?.0.parse::<usize>().ok());
    length.unwrap_or(0) * 4
}

/// Formats of rows, with all ways in which kernels may tell them apart.
fn formats(head_dim: usize) -> Vec<Format> {
    let widths = |bits| Format::Planes(Widths::uniform(bits, head_dim).unwrap());
    let packing = Packing::new(head_dim, 0.75, KeptFormat::Int8, Fill::MeanMagnitude).unwrap();
    let mut formats = vec![Format::F32, Format::F16, Format::Int8, Format::Packed(packing)];
    formats.extend([2, 3, 4, 5, 6].map(widths));
    formats
}

/// Numbers of modules: a kernel's text depends on them. A warp takes as many queries together as it has registers for.
fn constants() -> Vec<Constants> {
    let mut all = vec![Constants::NONE];
    for head_dim in [64, 128] {
        let dense = Layout::new(Side::Values, head_dim, Format::F16).unwrap();
        for format in formats(head_dim) {
            let [keys, values] =
                [Side::Keys, Side::Values].map(|side| Layout::new(side, head_dim, format).unwrap());
            let most = if keys.is_quantized() { 1024 } else { 2048 } / head_dim;
            let with = |queries| Constants::new(&keys, &values, false, queries);
            all.extend([1, 4, most].map(with));
            all.push(Constants::new(&keys, &dense, matches!(format, Format::Planes(_)), 2));
        }
    }
    all
}

#[test]
fn kernels_are_metals_language() {
    let Some(clang) = Clang::find() else { return };
    for constants in constants() {
        if let Err(reason) = clang.check(&source(METAL, &constants)) {
            panic!("{:?}: {reason}", constants.named());
        }
    }
}

#[test]
fn what_metal_refuses_is_found() {
    let Some(clang) = Clang::find() else { return };
    let kernel = |body: &str| format!("KERNEL(planted) {{ ARGUMENT(0, float, memory); {body} }}");
    let function = |function: &str, body: &str| format!("{function}\n{}", kernel(body));
    let shared = "DEVICE float first(SHARED_PTR(float) words CTX) { return words[0]; }";
    let private = "DEVICE float first(PRIVATE_PTR(float) words CTX) { return words[0]; }";
    let fine = "float own[2] = {1.0f, 2.0f}; memory[0] = first(own PASS);";
    clang.check(&(source(METAL, &Constants::NONE) + &function(private, fine))).unwrap();
    for (mistake, reason) in [
        (function(shared, "memory[0] = first(memory PASS);"), "address space"),
        (function(private, "memory[0] = first(memory PASS);"), "address space"),
        (function(shared, fine), "__local"),
        (function("DEVICE float first(float* words CTX) { return words[0]; }", fine), "which memory"),
        (kernel("float own[2] = {1.0f, 2.0f}; float* words = own; memory[0] = words[1];"), "which memory"),
        (kernel("if (LANE == 0) { SHARED(float, words, 2); words[0] = memory[0]; }"), "outermost scope"),
        (function("DEVICE void fill(CTX_ONLY) { SHARED(float, words, 2); words[0] = 1.0f; }", ""), "local"),
        (function("const float HALF = 0.5f;", "memory[0] = HALF;"), "constant address space"),
        (
            kernel(
                "SHARED(u32, few, 8000); SHARED(float, more, 200); few[LANE] = 1; more[LANE] = memory[0];",
            ),
            "32800 bytes of shared memory",
        ),
        (kernel("memory[0] = 0.5 * memory[1];"), "cl_khr_fp64"),
        (kernel("double value = memory[1]; memory[0] = value;"), "cl_khr_fp64"),
        (kernel("ARGUMENT(1, const float, rows); rows[0] = memory[0];"), "read-only"),
        (kernel("float half = memory[0]; memory[1] = half;"), "half"),
        (kernel("u32 thread = LANE; memory[thread] = 0.0f;"), "expected"),
        (kernel("memory[0] = SHUFFLE((u64)LANE, 1);"), "ambiguous"),
    ] {
        let mistake = mistake.replace("CTX_ONLY", "float value CTX");
        match clang.check(&(source(METAL, &Constants::NONE) + &mistake)) {
            Ok(()) => panic!("not found: {mistake}"),
            Err(found) => assert!(found.contains(reason), "{mistake}: {found}"),
        }
    }
}
