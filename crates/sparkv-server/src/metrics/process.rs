//! What the process takes of the machine, under the names that all of Prometheus' clients use.

use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::{counter::ConstCounter, gauge::ConstGauge};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// This process, looked at when somebody asks.
#[derive(Debug, Default)]
pub(super) struct Process(Mutex<System>);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut system = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = Pid::from_u32(std::process::id());
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, what);
        // Where the system does not tell, nothing is told.
        let Some(process) = system.process(id) else { return Ok(()) };
        let gauge = |value: u64| ConstGauge::new(value as f64);
        let cpu = ConstCounter::new(process.accumulated_cpu_time() as f64 / 1e3);
        let (resident, virtual_bytes) = (gauge(process.memory()), gauge(process.virtual_memory()));
        let started = gauge(process.start_time());
        let open = process.open_files().map(|count| gauge(count as u64));
        let most = process.open_files_limit().map(|count| gauge(count as u64));
        let figures: [(&str, &str, Option<&dyn EncodeMetric>); 6] = [
            ("process_cpu_seconds", "Time of processors spent", Some(&cpu)),
            ("process_resident_memory_bytes", "Resident memory", Some(&resident)),
            ("process_virtual_memory_bytes", "Virtual memory", Some(&virtual_bytes)),
            ("process_start_time_seconds", "When the process started, since 1970", Some(&started)),
            (
                "process_open_fds",
                "Open file descriptors",
                open.as_ref().map(|gauge| gauge as &dyn EncodeMetric),
            ),
            (
                "process_max_fds",
                "File descriptors there may be",
                most.as_ref().map(|gauge| gauge as &dyn EncodeMetric),
            ),
        ];
        for (name, help, metric) in figures {
            if let Some(metric) = metric {
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
            }
        }
        Ok(())
    }
}
