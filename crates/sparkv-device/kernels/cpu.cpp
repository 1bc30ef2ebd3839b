// All kernels, for the simulated device.
#include "cpu.h"

#include "formats.inc"
#include "tables.inc"
#include "append.inc"
#include "places.inc"
#include "copy.inc"
#include "move.inc"
#include "faults.inc"
