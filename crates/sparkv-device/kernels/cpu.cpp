// All kernels, for the simulated device.
#include "cpu.h"

#include "formats.inc"
#include "tables.inc"
#include "lanes.inc"
#include "append.inc"
#include "places.inc"
#include "copy.inc"
#include "move.inc"
#include "elementwise.inc"
#include "mass.inc"
#include "faults.inc"
