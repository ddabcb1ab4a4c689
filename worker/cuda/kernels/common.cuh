// What kernels share: types, checked shapes of parameters, activations, asynchronous copies and matrix instructions.
//
// Everything is written for compute capability 8.0: mma.sync, ldmatrix, cp.async.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace graft {

// Division of a number below 2^31 by a constant, as a multiplication: quotient = (n * multiplier) >> (32 + shift).
// After: Granlund, Montgomery 1994.
struct Divisor {
    uint32_t divisor;
    uint32_t multiplier;  // 0: the divisor is 1
    uint32_t shift;

    __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
        return multiplier == 0 ? n : __umulhi(n, multiplier) >> shift;
    }

    // The quotient; `n` becomes the remainder.
    __device__ __forceinline__ uint32_t split(uint32_t& n) const {
        uint32_t q = quotient(n);
        n -= q * divisor;
        return q;
    }
};

// What is done to each element after a sum.
enum ActivationKind : uint32_t {
    ACT_NONE = 0,
    ACT_RELU = 1,
    ACT_CLIP = 2,          // a: least, b: most
    ACT_SIGMOID = 3,
    ACT_SILU = 4,
    ACT_GELU = 5,          // by the error function
    ACT_GELU_TANH = 6,
    ACT_HARD_SWISH = 7,
    ACT_HARD_SIGMOID = 8,  // a: slope, b: offset
    ACT_TANH = 9,
    ACT_LEAKY_RELU = 10,   // a: slope below 0
    ACT_ELU = 11,          // a: scale below 0
};

struct Activation {
    uint32_t kind;
    float a;
    float b;
};

__device__ __forceinline__ float sigmoid(float x) { return __frcp_rn(1.0f + __expf(-x)); }

// 1 - 2 / (1 + e^2x): exact at both ends, where e^2x is 0 or infinite.
__device__ __forceinline__ float hyperbolic_tangent(float x) {
    return 1.0f - 2.0f * __frcp_rn(1.0f + __expf(2.0f * x));
}

__device__ __forceinline__ float limited(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

// Activates COUNT elements; the kind is looked at once for all of them. NaN passes ReLU and Clip.
template <int COUNT>
__device__ __forceinline__ void activate(const Activation& f, float (&x)[COUNT]) {
#define GRAFT_EACH(expression)                                     \
    _Pragma("unroll") for (int i = 0; i < COUNT; i++) {            \
        float v = x[i];                                            \
        x[i] = expression;                                         \
    }                                                              \
    break;
    switch (f.kind) {
        case ACT_RELU: GRAFT_EACH(v < 0.0f ? 0.0f : v)
        case ACT_CLIP: GRAFT_EACH(v < f.a ? f.a : (v > f.b ? f.b : v))
        case ACT_SIGMOID: GRAFT_EACH(sigmoid(v))
        case ACT_SILU: GRAFT_EACH(v * sigmoid(v))
        case ACT_GELU: GRAFT_EACH(0.5f * v * (1.0f + erff(v * 0.70710678f)))
        case ACT_GELU_TANH:
            GRAFT_EACH(0.5f * v * (1.0f + hyperbolic_tangent(0.79788456f * (v + 0.044715f * v * v * v))))
        case ACT_HARD_SWISH: GRAFT_EACH(v * limited(v * (1.0f / 6.0f) + 0.5f))
        case ACT_HARD_SIGMOID: GRAFT_EACH(limited(f.a * v + f.b))
        case ACT_TANH: GRAFT_EACH(hyperbolic_tangent(v))
        case ACT_LEAKY_RELU: GRAFT_EACH(v < 0.0f ? f.a * v : v)
        case ACT_ELU: GRAFT_EACH(v < 0.0f ? f.a * (__expf(v) - 1.0f) : v)
        default: break;
    }
#undef GRAFT_EACH
}

// Eight halves: what one thread moves at once.
struct alignas(16) Half8 {
    __half2 pair[4];
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies BYTES (4, 8 or 16) to shared memory on the side; where `inside` is false, zeros are written and nothing is read.
template <int BYTES>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool inside) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what cp.async moves");
    int bytes = inside ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    } else if constexpr (BYTES == 8) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    }
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING groups of this thread's copies are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of halves from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// sum += a * b for a 16 x 16, b 16 x 8, sum 16 x 8; rounded to fp32.
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The sum over a warp, in every lane; always in the same order.
__device__ __forceinline__ float sum_over_warp(float x) {
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float most_over_warp(float x) {
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

}  // namespace graft
