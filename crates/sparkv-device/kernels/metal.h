// The kernel language in Metal's. A kernel is compiled for a SIMD-group of 32, which src/metal checks.
//
// Names of Metal's library are written with their namespace, so that kernels may have functions of the same name. Numbers of
// a module (HEAD_DIM and so on) are defined before this.

#include <metal_stdlib>

// Bytes are the same on every device: a product and a sum are rounded each by itself. There is no option for it.
#if __METAL_VERSION__ >= 320
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#else
#pragma clang fp contract(off)
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int i32;

#define DEVICE static
#define GLOBAL(T) device T*
#define GLOBAL_CAST(T, pointer, offset) ((device T*)((device const u8*)(pointer) + (u64)(offset)))
#define SHARED_PTR(T) threadgroup T*
#define SHARED(T, name, length) threadgroup T name[length]
#define PRIVATE_PTR(T) thread T*

// Where a thread is, is an argument of a kernel, and handed on from there.
#define CTX , u32 metal_group, u32 metal_groups, u32 metal_lane
#define PASS , metal_group, metal_groups, metal_lane
#define GROUP metal_group
#define GROUPS metal_groups
#define LANE metal_lane

#define KERNEL(name)                                              \
    [[max_total_threads_per_threadgroup(32)]] kernel void name(   \
        device u8* argument_0 [[buffer(0)]],                      \
        device u8* argument_1 [[buffer(1)]],                      \
        device u8* argument_2 [[buffer(2)]],                      \
        device u8* argument_3 [[buffer(3)]],                      \
        device u8* argument_4 [[buffer(4)]],                      \
        device u8* argument_5 [[buffer(5)]],                      \
        device u8* argument_6 [[buffer(6)]],                      \
        device u8* argument_7 [[buffer(7)]],                      \
        device const u32* metal_plan [[buffer(8)]],               \
        u32 metal_group [[threadgroup_position_in_grid]],         \
        u32 metal_groups [[threadgroups_per_grid]],               \
        u32 metal_lane [[thread_index_in_simdgroup]])
#define ARGUMENT(index, T, name) device T* name = (device T*)argument_##index
#define PLAN metal_plan

#define WARP_SYNC() metal::simdgroup_barrier(metal::mem_flags::mem_threadgroup | metal::mem_flags::mem_device)
#define SHUFFLE(value, from) metal::simd_shuffle(value, (u16)(from))
#define SHUFFLE_XOR(value, mask) metal::simd_shuffle_xor(value, (u16)(mask))
#define SHUFFLE_UP(value, delta) metal::simd_shuffle_up(value, (u16)(delta))
#define BALLOT(vote) ((u32)(metal::simd_vote::vote_t)metal::simd_ballot(vote))

// Before a loop.
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_SOME _Pragma("clang loop unroll_count(4)")
#define UNROLL_TWO _Pragma("clang loop unroll_count(2)")

#define POPC(bits) metal::popcount((u32)(bits))
#define AS_FLOAT(bits) as_type<float>((u32)(bits))
#define AS_UINT(value) as_type<u32>((float)(value))
#define EXP(x) metal::precise::exp((float)(x))
#define SQRT(x) metal::precise::sqrt((float)(x))
#define FABS(x) metal::fabs((float)(x))
#define FLOOR(x) metal::floor((float)(x))
#define FMA(a, b, c) metal::fma((float)(a), (float)(b), (float)(c))
// That of two which is a number, if only one is.
#define FMIN(a, b) metal::precise::fmin((float)(a), (float)(b))
#define FMAX(a, b) metal::precise::fmax((float)(a), (float)(b))
#define INFINITY_F INFINITY
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static i32 dot4(u32 a, u32 b, i32 c) {
    for (u32 shift = 0; shift < 32; shift += 8) c += (i32)(signed char)(a >> shift) * (i32)(signed char)(b >> shift);
    return c;
}
#define DOT4(a, b, c) dot4(a, b, c)

// Metal leaves the rounding of a conversion open, so this is the text of kernels/cpu.h: nearest, ties to even.
static u32 float_to_half(float value) {
    u32 bits = AS_UINT(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude < 0x38800000) return sign | (AS_UINT(AS_FLOAT(magnitude) + 0.5f) - 0x3f000000);
    u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return sign | (rounded - 0x38000000) >> 13;
}
#define FLOAT_TO_HALF(value) float_to_half(value)
#define HALF_TO_FLOAT(bits) ((float)as_type<half>((u16)(bits)))

// Its matrix units do not say which thread holds what.
#define HAS_MMA 0

#define MAX_HEAD_DIM HEAD_DIM
#define MAX_QUERIES QUERIES
