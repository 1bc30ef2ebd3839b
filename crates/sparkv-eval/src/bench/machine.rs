//! What a benchmark ran on.

use std::num::NonZeroUsize;

use serde::Serialize;

/// What a benchmark ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells (it is asked on Linux only).
    pub cpu: Option<String>,
    /// Its architecture.
    pub arch: &'static str,
    /// The operating system.
    pub os: &'static str,
    /// Threads that this process may run at once.
    pub cores: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes of memory, where the system tells.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// This one, with `threads` of it computing.
    pub fn this(threads: NonZeroUsize) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            cpu: read("/proc/cpuinfo").and_then(|text| field(&text, "model name").map(str::to_owned)),
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            threads: threads.get(),
            memory_bytes: read("/proc/meminfo").and_then(|text| {
                let kibibytes: u64 = field(&text, "MemTotal")?.strip_suffix("kB")?.trim_end().parse().ok()?;
                kibibytes.checked_mul(1024)
            }),
        }
    }
}

/// What follows `name` and a colon in the first such line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: A CPU: fast\nMemTotal:       24 kB\n";
        assert_eq!(field(text, "model name"), Some("A CPU: fast"));
        assert_eq!(field(text, "MemTotal"), Some("24 kB"));
        assert_eq!(field(text, "name"), None);
    }
}
