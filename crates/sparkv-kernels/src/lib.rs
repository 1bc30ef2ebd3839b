//! Cache row formats and attention kernels. (Being written.)
