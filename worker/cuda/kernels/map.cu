// One operation on each element, of tensors in any layout: arithmetic, comparisons, selections, conversions; copies of slices,
// transposed and repeated tensors.
//
// Computes   out[i] = op(a[i], b[i], c[i]); operands are repeated where their stride is 0.
// Reference  `reference::map` (src/reference/layers.rs), in fp64 and in 64-bit integers.
// Shapes     Up to 6 dimensions, the last runs fastest; element types of strided.cuh. Sums are fp32; integer operations are done in
//            64 bits.
// Tile       A thread computes one element at a time; `map_flat` eight halves, where all operands lie like the result.
// Traffic    Each operand is read once, the result written once.
// Launch     Any number of blocks of 256 threads; they stride over all elements.
#include "strided.cuh"

namespace graft {

enum Operation : uint32_t {
    COPY = 0,
    ADD = 1,
    SUB = 2,
    MUL = 3,
    DIV = 4,
    POW = 5,
    MAX = 6,
    MIN = 7,
    EQUAL = 8,
    LESS = 9,
    LESS_OR_EQUAL = 10,
    AND = 11,
    OR = 12,
    SELECT = 13,  // a ? b : c
    NOT = 14,
    NEG = 15,
    ABS = 16,
    EXP = 17,
    LOG = 18,
    SQRT = 19,
    RECIPROCAL = 20,
    ERF = 21,
    FLOOR = 22,
    CEIL = 23,
    SOFTPLUS = 24,
    ACTIVATE = 25,
    SCALE = 26,  // a * b + c
    MOD = 27,
    PRELU = 28,  // a < 0 ? a * b : a
    ROUND = 29,
};

struct MapParams {
    View out, a, b, c;
    uint32_t operation;
    uint32_t integer;  // 1: operands are integers
    Activation activation;
    Activation after;
    Divisor sizes[MAX_DIMS];
    uint32_t elements;
};

__device__ __forceinline__ float operate(uint32_t operation, const Activation& f, float a, float b, float c) {
    switch (operation) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        case DIV: return a / b;
        case POW: return b == 2.0f ? a * a : powf(a, b);
        case MAX: return a > b || a != a ? a : b;
        case MIN: return a < b || a != a ? a : b;
        case EQUAL: return a == b;
        case LESS: return a < b;
        case LESS_OR_EQUAL: return a <= b;
        case AND: return a != 0.0f && b != 0.0f;
        case OR: return a != 0.0f || b != 0.0f;
        case SELECT: return a != 0.0f ? b : c;
        case NOT: return a == 0.0f;
        case NEG: return -a;
        case ABS: return fabsf(a);
        case EXP: return expf(a);
        case LOG: return logf(a);
        case SQRT: return sqrtf(a);
        case RECIPROCAL: return 1.0f / a;
        case ERF: return erff(a);
        case FLOOR: return floorf(a);
        case CEIL: return ceilf(a);
        case ROUND: return rintf(a);
        case SOFTPLUS: return a > 20.0f ? a : log1pf(expf(a));
        case SCALE: return a * b + c;
        case PRELU: return a < 0.0f ? a * b : a;
        case ACTIVATE: {
            float v[1] = {a};
            activate(f, v);
            return v[0];
        }
        default: return a;
    }
}

__device__ __forceinline__ int64_t operate(uint32_t operation, int64_t a, int64_t b, int64_t c) {
    switch (operation) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        case DIV: return b == 0 ? 0 : a / b;
        case MOD: return b == 0 ? 0 : (a % b != 0 && (a < 0) != (b < 0) ? a % b + b : a % b);
        case MAX: return a > b ? a : b;
        case MIN: return a < b ? a : b;
        case EQUAL: return a == b;
        case LESS: return a < b;
        case LESS_OR_EQUAL: return a <= b;
        case AND: return a != 0 && b != 0;
        case OR: return a != 0 || b != 0;
        case SELECT: return a != 0 ? b : c;
        case NOT: return a == 0;
        case NEG: return -a;
        case ABS: return a < 0 ? -a : a;
        default: return a;
    }
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) map_any(const __grid_constant__ graft::MapParams p) {
    using namespace graft;
    for (uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; index < p.elements; index += gridDim.x * blockDim.x) {
        uint32_t rest = index;
        int64_t out = 0, a = 0, b = 0, c = 0;
#pragma unroll
        for (int d = MAX_DIMS - 1; d >= 0; d--) {
            uint32_t outer = p.sizes[d].quotient(rest);
            int32_t at = static_cast<int32_t>(rest - outer * p.sizes[d].divisor);
            rest = outer;
            out += static_cast<int64_t>(at) * p.out.strides[d];
            a += static_cast<int64_t>(at) * p.a.strides[d];
            b += static_cast<int64_t>(at) * p.b.strides[d];
            c += static_cast<int64_t>(at) * p.c.strides[d];
        }
        if (p.integer) {
            int64_t x = load_integer(p.a, a);
            int64_t y = p.b.at ? load_integer(p.b, b) : 0;
            int64_t z = p.c.at ? load_integer(p.c, c) : 0;
            store_integer(p.out, out, operate(p.operation, x, y, z));
        } else {
            float x = load_float(p.a, a);
            float y = p.b.at ? load_float(p.b, b) : 0.0f;
            float z = p.c.at ? load_float(p.c, c) : 0.0f;
            float v[1] = {operate(p.operation, p.activation, x, y, z)};
            activate(p.after, v);
            store_float(p.out, out, v[0]);
        }
    }
}

namespace graft {

struct FlatParams {
    const __half* a;
    const __half* b;  // null: none
    __half* out;
    uint32_t operation;
    Activation activation;
    Activation after;
    uint32_t pieces;  // of eight halves
};

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) map_flat(const __grid_constant__ graft::FlatParams p) {
    using namespace graft;
    for (uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; index < p.pieces; index += gridDim.x * blockDim.x) {
        Half8 a = reinterpret_cast<const Half8*>(p.a)[index];
        Half8 b = a;
        if (p.b) b = reinterpret_cast<const Half8*>(p.b)[index];
        float x[8];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 left = __half22float2(a.pair[i]);
            float2 right = __half22float2(b.pair[i]);
            switch (p.operation) {
                case ADD: x[i * 2] = left.x + right.x; x[i * 2 + 1] = left.y + right.y; break;
                case SUB: x[i * 2] = left.x - right.x; x[i * 2 + 1] = left.y - right.y; break;
                case MUL: x[i * 2] = left.x * right.x; x[i * 2 + 1] = left.y * right.y; break;
                default: x[i * 2] = left.x; x[i * 2 + 1] = left.y; break;
            }
        }
        if (p.operation == ACTIVATE) activate(p.activation, x);
        activate(p.after, x);
        Half8 out;
#pragma unroll
        for (int i = 0; i < 4; i++) out.pair[i] = __floats2half2_rn(x[i * 2], x[i * 2 + 1]);
        reinterpret_cast<Half8*>(p.out)[index] = out;
    }
}
