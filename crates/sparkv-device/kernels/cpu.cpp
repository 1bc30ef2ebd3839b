// All kernels, for the simulated device.
#include "cpu.h"

#include "formats.inc"
#include "append.inc"
#include "move.inc"
#include "faults.inc"
