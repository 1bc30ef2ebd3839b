//! What can go wrong on a device.

/// A device that does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no device, or kernels do not run on it.
    #[error("{reason}")]
    Unsupported {
        /// What is missing, and what to do.
        reason: String,
    },
    /// Something that the device needs is not there.
    #[error("there is no device: it lacks {what}")]
    Missing {
        /// What that is.
        what: &'static str,
    },
    /// There is not as much memory.
    #[error("{bytes} bytes of the device's memory cannot be had: {reason}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What the driver says.
        reason: String,
    },
    /// Something is asked of a kernel that it cannot do with the memory it is given.
    #[error("{kernel}: {reason}")]
    Unfit {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The kernel does not run.
    #[error("{kernel} does not run on this device: {reason}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// What the driver, the compiler or the simulated device says.
        reason: String,
    },
}

impl DeviceError {
    /// Where `reason` says why `kernel` is not launched.
    pub(crate) fn unfit(kernel: &'static str, reason: impl Into<String>) -> Self {
        Self::Unfit { kernel, reason: reason.into() }
    }
}
