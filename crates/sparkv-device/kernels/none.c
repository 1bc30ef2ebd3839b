// Stands for the kernels where there is no C++ compiler: there are none.
#include <stddef.h>
#include <stdint.h>

void* sparkv_shim_kernel(const char* name) { return NULL; }
void* sparkv_shim_warp(void* launch, uint32_t group) { return NULL; }
void sparkv_shim_free(void* warp) {}
void sparkv_shim_run(void* kernel, void* warp, void* coroutine, uint32_t lane, const uint32_t** site) {}
