//! Memory of this process, as the system counts it.

/// Memory of this process; `None` where the system does not tell (it is asked on Linux only).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in memory now.
    pub resident: Option<u64>,
    /// Most bytes that ever were.
    pub peak: Option<u64>,
}

/// What this process takes at the moment.
pub fn memory() -> Memory {
    std::fs::read_to_string("/proc/self/status").map_or_else(|_| Memory::default(), |status| parse(&status))
}

fn parse(status: &str) -> Memory {
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Memory { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_linux_are_read() {
        let status = "Name:\tsparkv\nVmHWM:\t    9744 kB\nVmRSS:\t    8744 kB\nThreads:\t3\n";
        assert_eq!(parse(status), Memory { resident: Some(8744 * 1024), peak: Some(9744 * 1024) });
        assert_eq!(parse("VmRSS:\tmuch\n"), Memory::default());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_tells() {
        let Memory { resident: Some(resident), peak: Some(peak) } = memory() else { panic!("untold") };
        assert!(resident > 0 && peak >= resident);
    }
}
