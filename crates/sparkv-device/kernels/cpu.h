// The kernel language on the CPU: a GPU of one lane at a time, which notices what a GPU does not forgive.
//
// A lane is a coroutine of the host's (src/shim). Pointers into device memory know where their buffer ends, words of memory
// remember who touched them since the last barrier, and lanes that wait are asked what they wait for.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;

// What the host must know of too; see src/shim.
extern "C" void sparkv_shim_wait(void* coroutine);

enum Fault : u32 { NONE, BOUNDS, SHARED_BOUNDS, SHARED_UNSET, SHARED_RACE, MEMORY_RACE, NO_LANE };

// Who touched a byte of device memory in this launch. Threads are counted from 1; MANY stands for several.
struct Shadow {
    u32 writer = 0, written = 0, reader = 0, read = 0;
};
const u32 MANY = ~0u;
const u32 LANES = 32;

struct Buffer {
    u8* start;
    u64 bytes;
    Shadow* shadow;  // (bytes), or null: races are not looked for
};

struct Launch {
    Buffer buffers[9];  // the plan is the last
    const u32* constants;
    u32 groups;
    u32 fault;
    u32 fault_line;
};

struct Cell {
    u32 value = 0;
    bool set = false;
    u32 written = 0, read = 0;  // epochs, from 1
    u32 writer = 0, reader = 0;  // lanes, from 1
};

// What a lane holds of the matrices of a product.
struct Fragments {
    float a[8], b[4];
};

struct Warp {
    Launch* launch;
    u32 group;
    u32 slots[2][LANES];
    Fragments fragments[2][LANES];
    std::map<int, std::vector<Cell>> shared;
};

struct Lane {
    Warp* warp;
    void* coroutine;
    u32 lane;
    u32 epoch;   // barriers passed, plus 1
    u32 meetings;  // barriers and shuffles passed
    u32 site;    // where it waits
};

static void fail(const Lane& self, Fault fault, u32 line) {
    if (self.warp->launch->fault == NONE) {
        self.warp->launch->fault = fault;
        self.warp->launch->fault_line = line;
    }
}

// ---- device memory

static bool ordered(const Lane& self, u32 thread, u32 epoch) {
    u32 first = self.warp->group * LANES + 1;
    u32 own = first + self.lane;
    if (thread == 0 || thread == own) return true;
    return thread != MANY && thread >= first && thread < first + LANES && epoch < self.epoch;
}

static bool touch(const Lane& self, const Buffer* buffer, u8* at, u32 size, bool writes) {
    if (at < buffer->start || at + size > buffer->start + buffer->bytes) {
        fail(self, BOUNDS, self.site);
        return false;
    }
    if (!buffer->shadow) return true;
    u32 own = self.warp->group * LANES + 1 + self.lane;
    for (Shadow* s = buffer->shadow + (at - buffer->start); size > 0; s++, size--) {
        if (!ordered(self, s->writer, s->written)) fail(self, MEMORY_RACE, self.site);
        if (writes) {
            if (!ordered(self, s->reader, s->read)) fail(self, MEMORY_RACE, self.site);
            s->writer = own;
            s->written = self.epoch;
        } else {
            bool many = s->reader != 0 && s->reader != own && !(ordered(self, s->reader, s->read));
            s->reader = many ? MANY : own;
            s->read = self.epoch;
        }
    }
    return true;
}

template <class T>
struct Reference {
    typedef std::remove_const_t<T> Value;
    const Lane* lane;
    const Buffer* buffer;
    u8* at;
    operator Value() const {
        Value value{};
        if (touch(*lane, buffer, at, sizeof(Value), false)) memcpy(&value, at, sizeof(Value));
        return value;
    }
    Value operator=(Value value) const {
        static_assert(!std::is_const<T>::value, "device memory that is only read");
        if (touch(*lane, buffer, at, sizeof(Value), true)) memcpy(at, &value, sizeof(Value));
        return value;
    }
    Value operator=(const Reference& other) const { return *this = (Value)other; }
    Value operator+=(Value value) const { return *this = (Value)*this + value; }
    Value operator*=(Value value) const { return *this = (Value)*this * value; }
};

template <class T>
struct Global {
    const Lane* lane;
    const Buffer* buffer;
    u8* at;
    template <class I> Reference<T> operator[](I index) const { return {lane, buffer, at + (int64_t)index * (int64_t)sizeof(T)}; }
    template <class I> Global operator+(I count) const { return {lane, buffer, at + (int64_t)count * (int64_t)sizeof(T)}; }
    template <class I> Global operator-(I count) const { return {lane, buffer, at - (int64_t)count * (int64_t)sizeof(T)}; }
    operator Global<const T>() const { return {lane, buffer, at}; }
};

template <class T> static Global<T> argument(const Lane& self, u32 index) {
    const Buffer& buffer = self.warp->launch->buffers[index];
    return {&self, &buffer, buffer.start};
}

// ---- shared memory

template <class T>
struct SharedReference {
    Lane* lane;
    Cell* cell;
    operator T() const {
        if (!cell) return T{};
        if (!cell->set) fail(*lane, SHARED_UNSET, lane->site);
        if (cell->written == lane->epoch && cell->writer != lane->lane + 1) fail(*lane, SHARED_RACE, lane->site);
        cell->reader = cell->read == lane->epoch && cell->reader != lane->lane + 1 ? MANY : lane->lane + 1;
        cell->read = lane->epoch;
        T value;
        memcpy(&value, &cell->value, 4);
        return value;
    }
    T operator=(T value) const {
        if (!cell) return value;
        if (cell->written == lane->epoch && cell->writer != lane->lane + 1) fail(*lane, SHARED_RACE, lane->site);
        if (cell->read == lane->epoch && cell->reader != lane->lane + 1) fail(*lane, SHARED_RACE, lane->site);
        cell->written = lane->epoch;
        cell->writer = lane->lane + 1;
        cell->set = true;
        memcpy(&cell->value, &value, 4);
        return value;
    }
    T operator=(const SharedReference& other) const { return *this = (T)other; }
    T operator+=(T value) const { return *this = (T)*this + value; }
};

template <class T>
struct Shared {
    static_assert(sizeof(T) == 4, "shared memory is in words");
    Lane* lane;
    std::vector<Cell>* cells;
    int64_t first;
    template <class I> SharedReference<T> operator[](I index) const {
        int64_t at = first + (int64_t)index;
        if (at < 0 || at >= (int64_t)cells->size()) {
            fail(*lane, SHARED_BOUNDS, lane->site);
            return {lane, nullptr};
        }
        return {lane, &(*cells)[(size_t)at]};
    }
    template <class I> Shared operator+(I count) const { return {lane, cells, first + (int64_t)count}; }
};

template <class T> static Shared<T> shared_array(Lane& self, int id, size_t length) {
    std::vector<Cell>& cells = self.warp->shared[id];
    if (cells.empty()) cells.resize(length);
    return {&self, &cells, 0};
}

// ---- lanes that meet

static void meet(Lane& self, u32 site) {
    self.site = site;
    self.meetings++;
    sparkv_shim_wait(self.coroutine);
}

static void barrier(Lane& self, u32 site) {
    meet(self, site);
    self.epoch++;
}

static u32 exchange_bits(Lane& self, u32 bits, u32 from, u32 site) {
    // Two sets of slots: a lane that goes ahead to the next meeting does not overwrite what others still read.
    u32* slots = self.warp->slots[self.meetings % 2];
    slots[self.lane] = bits;
    meet(self, site);
    // CUDA takes the remainder, Metal anything.
    if (from >= LANES) fail(self, NO_LANE, site);
    return slots[from % LANES];
}

static u32 exchange(Lane& self, u32 value, u32 from, u32 site) { return exchange_bits(self, value, from, site); }
static i32 exchange(Lane& self, i32 value, u32 from, u32 site) { return (i32)exchange_bits(self, (u32)value, from, site); }
static float exchange(Lane& self, float value, u32 from, u32 site) {
    u32 bits;
    memcpy(&bits, &value, 4);
    bits = exchange_bits(self, bits, from, site);
    memcpy(&value, &bits, 4);
    return value;
}

static u32 ballot(Lane& self, bool vote, u32 site) {
    u32* slots = self.warp->slots[self.meetings % 2];
    slots[self.lane] = vote;
    meet(self, site);
    u32 votes = 0;
    for (u32 lane = 0; lane < LANES; lane++) votes |= (slots[lane] & 1) << lane;
    return votes;
}

// ---- arithmetic

static u32 as_uint(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static float as_float(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static i32 dot4(u32 a, u32 b, i32 c) {
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}
static float half_to_float(u32 half) {
    u32 exponent = half >> 10 & 31, fraction = half & 1023, sign = (half & 0x8000) << 16;
    if (exponent == 31) return as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float magnitude = (float)fraction * 5.9604644775390625e-8f;  // 2^-24
        return as_float(as_uint(magnitude) | sign);
    }
    return as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
// Nearest, ties to even.
static u32 float_to_half(float value) {
    u32 bits = as_uint(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude < 0x38800000) {
        // Adding a number whose last bit is that of the smallest half rounds as the processor rounds.
        u32 rounded = as_uint(as_float(magnitude) + 0.5f) - 0x3f000000;
        return sign | rounded;
    }
    u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return sign | (rounded - 0x38000000) >> 13;
}

static u32 to_halves(float first, float second) { return float_to_half(first) | float_to_half(second) << 16; }

// ---- matrix units

// Matrix units do not round to nearest: what f32 does not hold is cut off.
static float toward_zero(double exact) {
    float value = (float)exact;
    return std::fabs((double)value) > std::fabs(exact) && std::isfinite(exact) ? std::nextafterf(value, 0.0f) : value;
}

// As PTX has it: mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32. Lane 4 * g + t holds, of a row of `a`, columns 2 * t and the next
// one in a word: row g in a[0], g + 8 in a[1], and columns 8 further on in a[2] and a[3]; of column g of `b`, rows 2 * t and the next
// one in b0, 8 further on in b1; of `c`, columns 2 * t and the next one: row g in c[0] and c[1], g + 8 in c[2] and c[3].
// Products are exact, and summed up eight at a time, as GPUs are found to do (Fasi, Higham, Mikaitis, Pranesh, 2021).
static void mma(Lane& self, float* c, const u32* a, u32 b0, u32 b1, u32 site) {
    Fragments* fragments = self.warp->fragments[self.meetings % 2];
    Fragments& own = fragments[self.lane];
    u32 b[2] = {b0, b1};
    for (u32 i = 0; i < 8; i++) own.a[i] = half_to_float(a[i / 2] >> 16 * (i % 2) & 0xffff);
    for (u32 i = 0; i < 4; i++) own.b[i] = half_to_float(b[i / 2] >> 16 * (i % 2) & 0xffff);
    meet(self, site);
    for (u32 i = 0; i < 4; i++) {
        u32 row = self.lane / 4 + 8 * (i / 2), column = self.lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (u32 upper = 0; upper < 2; upper++) {
            double exact = sum;
            for (u32 k = 0; k < 8; k++) {
                float left = fragments[row % 8 * 4 + k / 2].a[2 * (2 * upper + row / 8) + k % 2];
                exact += (double)left * fragments[column * 4 + k / 2].b[2 * upper + k % 2];
            }
            sum = toward_zero(exact);
        }
        c[i] = sum;
    }
}

// ---- the macros

#define DEVICE static
#define CTX , Lane& self
#define PASS , self
#define GLOBAL(T) Global<T>
#define GLOBAL_CAST(T, pointer, offset) \
    (Global<T>{(pointer).lane, (pointer).buffer, (pointer).at + (u64)(offset)})
#define SHARED_PTR(T) Shared<T>
// To an array of the lane's own, as a parameter.
#define PRIVATE_PTR(T) T*
#define SHARED(T, name, length) Shared<T> name = shared_array<T>(self, __COUNTER__, (size_t)(length))
#define ARGUMENT(index, T, name) Global<T> name = argument<T>(self, index)
#define PLAN (argument<const u32>(self, 8))
#define GROUP (self.warp->group)
#define GROUPS (self.warp->launch->groups)
#define LANE (self.lane)
#define WARP_SYNC() barrier(self, __LINE__)
#define SHUFFLE(value, from) exchange(self, value, (u32)(from), __LINE__)
#define SHUFFLE_XOR(value, mask) exchange(self, value, self.lane ^ (u32)(mask), __LINE__)
#define SHUFFLE_UP(value, delta) exchange(self, value, self.lane >= (u32)(delta) ? self.lane - (u32)(delta) : self.lane, __LINE__)
#define BALLOT(vote) ballot(self, vote, __LINE__)
#define POPC(bits) ((u32)__builtin_popcount(bits))
#define DOT4(a, b, c) dot4(a, b, c)
#define HALF_TO_FLOAT(bits) half_to_float(bits)
#define FLOAT_TO_HALF(value) float_to_half(value)
#define TO_HALVES(first, second) to_halves(first, second)
#define AS_FLOAT(bits) as_float(bits)
#define AS_UINT(value) as_uint(value)
#define EXP(x) std::exp((float)(x))
#define SQRT(x) std::sqrt((float)(x))
#define FABS(x) std::fabs((float)(x))
#define FLOOR(x) std::floor((float)(x))
#define FMA(a, b, c) std::fma((float)(a), (float)(b), (float)(c))
// That of two which is a number, if only one is.
#define FMIN(a, b) std::fmin((float)(a), (float)(b))
#define FMAX(a, b) std::fmax((float)(a), (float)(b))
#define INFINITY_F INFINITY
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

// c (4 floats) += a (4 words of two halves) * b, by all lanes: see `mma`.
#define HAS_MMA 1
#define MMA(c, a, b0, b1) mma(self, c, a, b0, b1, __LINE__)

// Of loops: see attention_rows.inc.
#define UNROLL
#define UNROLL_SOME
#define UNROLL_TWO

// On a GPU each of these is a number that the kernel is compiled for.
#define CONSTANT(index) ((int)self.warp->launch->constants[index])
#define HEAD_DIM CONSTANT(0)
#define QUERIES CONSTANT(1)
#define KEY_FORMAT CONSTANT(2)
#define VALUE_FORMAT CONSTANT(3)
#define KEY_BITS CONSTANT(4)
#define VALUE_BITS CONSTANT(5)
#define KEY_KEPT CONSTANT(6)
#define VALUE_KEPT CONSTANT(7)
#define MAX_HEAD_DIM 512
#define MAX_QUERIES 32

// ---- kernels by name

typedef void (*Kernel)(Lane&);
static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
struct Registered {
    Registered(const char* name, Kernel kernel) { kernels()[name] = kernel; }
};
#define KERNEL(name)                                    \
    static void name(Lane& self);                       \
    static Registered registered_##name(#name, name);   \
    static void name(Lane& self)

// ---- what the host calls

extern "C" {
// The kernel of this name; null if there is none.
void* sparkv_shim_kernel(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : (void*)found->second;
}
Warp* sparkv_shim_warp(Launch* launch, u32 group) {
    Warp* warp = new Warp();
    warp->launch = launch;
    warp->group = group;
    return warp;
}
void sparkv_shim_free(Warp* warp) { delete warp; }
void sparkv_shim_run(void* kernel, Warp* warp, void* coroutine, u32 lane, const u32** site) {
    Lane self = {warp, coroutine, lane, 1, 0, 0};
    *site = &self.site;
    ((Kernel)kernel)(self);
}
}
