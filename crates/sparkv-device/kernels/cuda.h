// The kernel language on CUDA. No headers of the toolkit: what is used here the run-time compiler knows by itself.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#define DEVICE static __device__ __forceinline__
#define CTX
#define PASS
#define GLOBAL(T) T*
#define GLOBAL_CAST(T, pointer, offset) ((T*)((u8*)(pointer) + (u64)(offset)))
#define SHARED_PTR(T) T*
#define PRIVATE_PTR(T) T*
// Beginning where wide loads may.
#define SHARED(T, name, length) __align__(16) __shared__ T name[length]

// A kernel's text is that of a function; ENTRY, at the end of the text, makes the one that is launched of it. So what is
// compiled is one kernel, not all.
#define PARAMETERS                                                                                         \
    u8 *argument0, u8 *argument1, u8 *argument2, u8 *argument3, u8 *argument4, u8 *argument5, u8 *argument6, \
        u8 *argument7, const u32* __restrict__ plan_words
#define KERNEL(name) DEVICE void name##_body(PARAMETERS)
// One group a multiprocessor is asked for: else values go from registers to memory to have room for more groups.
#define ENTRY(name)                                                                                        \
    extern "C" __global__ void __launch_bounds__(32, 1) name(PARAMETERS) {                                 \
        name##_body(argument0, argument1, argument2, argument3, argument4, argument5, argument6, argument7, \
                    plan_words);                                                                           \
    }
#define ARGUMENT(index, T, name) T* name = (T*)argument##index
#define PLAN plan_words

#define UNROLL _Pragma("unroll")
#define UNROLL_SOME _Pragma("unroll 4")
#define UNROLL_TWO _Pragma("unroll 2")

#define GROUP blockIdx.x
#define GROUPS gridDim.x
#define LANE threadIdx.x
#define ALL_LANES 0xffffffffu
#define WARP_SYNC() __syncwarp(ALL_LANES)
#define SHUFFLE(value, from) __shfl_sync(ALL_LANES, value, (int)(from))
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(ALL_LANES, value, (int)(mask))
#define SHUFFLE_UP(value, delta) __shfl_up_sync(ALL_LANES, value, (u32)(delta))
#define BALLOT(vote) __ballot_sync(ALL_LANES, vote)
#define POPC(bits) ((u32)__popc(bits))
// The toolkit's own counts as having effects, so that reads between two of them are not brought together.
static __device__ __forceinline__ i32 dot4(i32 a, i32 b, i32 c) {
    i32 sum;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}
#define DOT4(a, b, c) dot4((int)(a), (int)(b), (int)(c))

static __device__ __forceinline__ float half_to_float(u32 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((u16)bits));
    return value;
}
static __device__ __forceinline__ u32 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    // What is no number is another one here than on the CPU.
    return value == value ? bits : (__float_as_uint(value) >> 16 & 0x8000) | 0x7e00;
}
#define HALF_TO_FLOAT(bits) half_to_float(bits)
#define FLOAT_TO_HALF(value) float_to_half(value)
#define AS_FLOAT(bits) __uint_as_float(bits)
#define AS_UINT(value) __float_as_uint(value)
// The exact one (2 units in the last place): __expf is off by more, the more the further its argument is from 0.
#define EXP(x) expf(x)
#define SQRT(x) sqrtf(x)
#define FABS(x) fabsf(x)
#define FLOOR(x) floorf(x)
#define FMA(a, b, c) fmaf(a, b, c)
#define FMIN(a, b) fminf(a, b)
#define FMAX(a, b) fmaxf(a, b)
#define INFINITY_F __int_as_float(0x7f800000)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

// Matrix units: c (4 floats) += a (4 words of two halves) * b, by all lanes. `mma` in kernels/cpu.h says who holds what.
#define HAS_MMA (__CUDA_ARCH__ >= 800)
#if HAS_MMA
// Two numbers as halves of a word, the first one in the lower half.
static __device__ __forceinline__ u32 to_halves(float first, float second) {
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}
static __device__ __forceinline__ void mma(float* c, const u32* a, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
#define TO_HALVES(first, second) to_halves(first, second)
#define MMA(c, a, b0, b1) mma(c, a, b0, b1)

#define MAX_HEAD_DIM HEAD_DIM
#define MAX_QUERIES QUERIES
