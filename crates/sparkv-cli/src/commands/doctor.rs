//! `sparkv doctor`.

use std::io::Write;

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use sparkv::accelerator::{self, Gpu};
use sparkv::{Isa, parallel};
use sparkv_eval::bench::Machine;
use sparkv_models::DeviceChoice;
use sysinfo::System;

/// How it is shown.
#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Print one JSON object: version, build, machine, instructions, memory, open_files, gpus, auto
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// Devices that this binary was built for.
    build: Vec<&'static str>,
    machine: Machine,
    /// Those that kernels use, and those that they could use, the slowest first.
    instructions: Vec<&'static str>,
    memory: Memory,
    /// How many files and connections the process may have open.
    open_files: Option<u64>,
    gpus: Vec<Gpu>,
    auto: Auto,
}

/// What `--device auto` is.
#[derive(Debug, Serialize)]
struct Auto {
    device: String,
    /// Why it cannot be used.
    fault: Option<String>,
}

/// Bytes.
#[derive(Debug, Serialize)]
struct Memory {
    total: u64,
    free: u64,
    /// What the container may have, where it has a limit.
    limit: Option<u64>,
}

/// Shows what this machine has, and what of it can be used.
///
/// # Errors
/// If nobody reads the output.
pub(crate) fn doctor(options: &DoctorOptions) -> anyhow::Result<()> {
    let report = Report::new();
    let mut out = std::io::stdout().lock();
    if options.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?);
    }
    let rows = report.rows();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().try_for_each(|(name, text)| writeln!(out, "{name:width$}  {text}"))?;
    Ok(())
}

impl Report {
    fn new() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        let (total, free) = (system.total_memory(), system.available_memory());
        let limit = system.cgroup_limits().map(|limits| limits.total_memory).filter(|&limit| limit < total);
        let auto = DeviceChoice::found();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            build: accelerator::BUILT_FOR.to_vec(),
            machine: Machine::this(parallel::threads()),
            instructions: Isa::available().into_iter().map(Isa::name).collect(),
            memory: Memory { total, free, limit },
            open_files: open_files(),
            gpus: accelerator::gpus(),
            auto: Auto { device: auto.to_string(), fault: auto.open().err().map(|error| error.to_string()) },
        }
    }

    /// Names and what there is to say.
    fn rows(&self) -> Vec<(String, String)> {
        let Self { machine, memory, instructions, .. } = self;
        let row = |name: &str, text: String| (name.to_owned(), text);
        let bytes = |bytes: u64| ByteSize::b(bytes).to_string();
        let mut rows = vec![
            row("sparkv", format!("{} for {}-{}", self.version, machine.arch, machine.os)),
            row("built for", self.build.join(", ")),
            row("processor", machine.cpu.clone().unwrap_or_else(|| "unknown".into())),
            row("instructions", format!("{} (of {})", Isa::best().name(), instructions.join(", "))),
            row("threads", format!("{} on {} cores", machine.threads, machine.cores)),
            row("memory", format!("{}, {} of it free", bytes(memory.total), bytes(memory.free))),
        ];
        rows.extend(memory.limit.map(|limit| row("container", format!("may have {}", bytes(limit)))));
        rows.extend(self.open_files.map(|files| row("open files", format!("{files} at most"))));
        for gpu in &self.gpus {
            let memory = gpu.memory.map_or_else(String::new, |memory| format!(", {}", bytes(memory)));
            let free = gpu.free.map_or_else(String::new, |free| format!(", {} of it free", bytes(free)));
            rows.push(row(&gpu.device, format!("{}{memory}{free}", gpu.name)));
            rows.extend(gpu.facts.iter().map(|(name, text)| row(&format!("  {name}"), text.clone())));
            rows.extend(gpu.fault.iter().map(|fault| row("  cannot be used", fault.clone())));
        }
        if self.gpus.is_empty() {
            let looks = self.build.len() > 1;
            let none = if looks { "none is there" } else { "this binary looks for none" };
            rows.push(row("GPUs", accelerator::no_gpus().unwrap_or_else(|| none.into())));
        }
        rows.push(row(
            "--device auto",
            match &self.auto.fault {
                None => format!("is {}", self.auto.device),
                Some(fault) => format!("is {}: {fault}", self.auto.device),
            },
        ));
        rows
    }
}

/// The limit of the process, where the system tells (it is asked on Linux only).
fn open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
