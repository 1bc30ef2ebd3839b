//! The allocator of the process.

/// Big temporaries are mapped and unmapped at every step by the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives memory that was freed back to the system, so that what is resident is what is used. Each thread holds
/// on to its own; to be called on the main thread while nothing computes.
pub(crate) fn give_back() {
    sparkv::parallel::on_every_thread(collect);
}

#[expect(unsafe_code, reason = "the allocator's C interface is the only one that has this")]
fn collect() {
    // SAFETY: it takes no pointer, and touches nothing but what the calling thread has freed.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
