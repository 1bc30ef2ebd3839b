use serde_json::{Value, json};
use sparkv_device::cuda::{Program, Target};
use sparkv_device::kernel::{self, Constants, RowConstants};

use super::specialisations::of_kernel;

/// Compute capabilities whose code is looked at: A100, H100.
const CAPABILITIES: [u32; 2] = [80, 90];

/// Shared memory that a group may have without asking for more.
const SHARED_MEMORY: u32 = 48 << 10;

/// What a compiled kernel takes of a GPU.
#[derive(Debug)]
struct Usage {
    registers: u32,
    /// Bytes a lane.
    spilled: u32,
    /// Bytes a lane, of arrays that are not in registers.
    stack: u32,
    /// Bytes a group.
    shared: u32,
}

impl Usage {
    /// From what the assembler says of the kernel, and of functions that it calls.
    fn read(log: &str) -> Option<Self> {
        let sum = |what: &str| {
            let before = |(at, _)| log[..at].rsplit([' ', '\n']).next()?.parse::<u32>().ok();
            log.contains(what).then(|| log.match_indices(what).map(before).sum::<Option<u32>>()).flatten()
        };
        Some(Self {
            registers: sum(" registers")?,
            spilled: sum(" bytes spill stores")? + sum(" bytes spill loads")?,
            stack: sum(" bytes stack frame")?,
            shared: sum(" bytes smem").unwrap_or(0),
        })
    }
}

#[test]
fn what_the_assembler_says_is_read() {
    let log = "ptxas info    : Compiling entry function 'attend' for 'sm_90'\n\
        ptxas info    : Function properties for attend\n\
        ptxas         .     24 bytes stack frame, 24 bytes spill stores, 44 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 0 barriers, 24 bytes cumulative stack size, 6752 bytes smem";
    let Usage { registers, spilled, stack, shared } = Usage::read(log).unwrap();
    assert_eq!([registers, spilled, stack, shared], [168, 68, 24, 6752]);
    assert!(Usage::read("ptxas info    : Used 168 registers").is_none());
}

/// A kernel, what it is compiled for, a compute capability.
type Task = (&'static str, Constants, u32);

fn all() -> impl Iterator<Item = Task> {
    let kernels = kernel::names().flat_map(|kernel| {
        of_kernel(kernel).unwrap_or_default().into_iter().map(move |constants| (kernel, constants))
    });
    kernels.flat_map(|(kernel, constants)| CAPABILITIES.map(|capability| (kernel, constants, capability)))
}

fn named(rows: &RowConstants) -> String {
    match rows {
        RowConstants { format: 0, .. } => "f32".into(),
        RowConstants { format: 1, .. } => "f16".into(),
        RowConstants { format: 2, .. } => "int8".into(),
        RowConstants { format: 3, bits: 0, .. } => "allotted".into(),
        RowConstants { format: 3, bits, .. } => format!("int{bits}"),
        RowConstants { kept, .. } => format!("packed {kept}"),
    }
}

/// The one that keeps something in memory, by name, head_dim, queries and compute capability: of 256 channels, sums alone take half
/// of the registers.
const KNOWN: (&str, u32, u32, u32) = ("attend_prompt", 256, 16, 90);

/// How many bytes that is.
const KNOWN_BYTES: u32 = 36;

/// Prints a table, and writes JSON to the file that `SPARKV_REGISTERS` names.
#[test]
fn compiled_kernels_keep_everything_in_registers() {
    let unknown: Vec<&str> = kernel::names().filter(|kernel| of_kernel(kernel).is_none()).collect();
    assert!(unknown.is_empty(), "specialisations.rs does not know what {unknown:?} are compiled for");
    let tasks: Vec<Task> = all().collect();
    let usages = usages(&tasks);
    let (mut report, mut faults) = (Vec::<Value>::new(), Vec::new());
    println!("| kernel | D | queries | keys | values | sm | registers | spilled | stack | shared |");
    println!("|---|--:|--:|---|---|--:|--:|--:|--:|--:|");
    for ((kernel, constants, capability), usage) in tasks.iter().zip(usages) {
        let Constants { head_dim, queries, keys, values } = constants;
        let (keys, values) = (named(keys), named(values));
        let Usage { registers, spilled, stack, shared } = usage;
        let row = format!(
            "| {kernel} | {head_dim} | {queries} | {keys} | {values} | {capability} | {registers} | {spilled} | {stack} | {shared} |"
        );
        println!("{row}");
        report.push(json!({
            "kernel": kernel, "head_dim": head_dim, "queries": queries, "keys": keys, "values": values,
            "capability": capability, "registers": registers, "spilled": spilled, "stack": stack, "shared": shared,
        }));
        let known = (*kernel, *head_dim, *queries, *capability) == KNOWN && spilled <= KNOWN_BYTES;
        if !known && (spilled > 0 || stack > 0) || shared > SHARED_MEMORY {
            faults.push(row);
        }
    }
    if let Some(path) = std::env::var_os("SPARKV_REGISTERS").filter(|path| !path.is_empty()) {
        std::fs::write(path, serde_json::to_string_pretty(&report).unwrap()).unwrap();
    }
    assert!(faults.is_empty(), "memory in place of registers:\n{}", faults.join("\n"));
}

/// What each takes, in order.
fn usages(tasks: &[Task]) -> Vec<Usage> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let usage = |(kernel, constants, capability): &Task| {
        let compiled = Program::new(kernel, constants, Target::Machine(*capability)).compile().unwrap();
        assert!(compiled.image.starts_with(b"\x7fELF"), "{kernel}: machine code");
        Usage::read(&compiled.log).unwrap_or_else(|| panic!("{kernel}: {}", compiled.log))
    };
    std::thread::scope(|scope| {
        let parts = tasks.chunks(tasks.len().div_ceil(threads).max(1));
        let parts: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(usage).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// For GPUs that are newer than the compiler.
#[test]
fn kernels_compile_to_ptx() {
    for kernel in kernel::names() {
        let constants = of_kernel(kernel).unwrap_or_default();
        // There are no matrix units on older GPUs that it would use.
        let capability = if kernel == "attend_prompt" { 80 } else { 75 };
        for constants in [constants.first(), constants.last()].into_iter().flatten() {
            let compiled = Program::new(kernel, constants, Target::Ptx(capability)).compile().unwrap();
            let text = String::from_utf8(compiled.image).unwrap();
            assert!(text.ends_with('\0') && text.contains(&format!(".entry {kernel}(")), "{text}");
        }
    }
}

/// What the compiler refuses is told with the line of the file.
#[test]
fn what_does_not_compile_is_named() {
    let error = Program::new("missing", &Constants::NONE, Target::Ptx(80)).compile().unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("missing_body"), "{error}");
}
