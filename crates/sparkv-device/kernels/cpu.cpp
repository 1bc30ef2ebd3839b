// All kernels, for the simulated device.
#include "cpu.h"

#include "formats.inc"
#include "tables.inc"
#include "append.inc"
#include "move.inc"
#include "attention_rows.inc"
#include "attention_queries.inc"
#include "attention.inc"
#include "merge.inc"
#include "faults.inc"
