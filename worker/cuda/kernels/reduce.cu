// Sums, means, extremes over some dimensions.
//
// Computes   out[k] = sum, mean, largest, smallest, sum of squares' root, ... of in[k, r] over r
// Reference  `reference::reduce` (src/reference/layers.rs), in fp64.
// Shapes     Up to 6 dimensions that are kept and 6 that are summed over; any layout and element type; sums are fp32.
// Tile       `reduce_columns`: a thread takes a result, for results that lie side by side; `reduce_rows`: a warp takes one, for
//            elements that do.
// Traffic    Each element is read once.
// Launch     Any number of blocks of 128 threads; they stride over all results.
#include "strided.cuh"

namespace graft {

enum Reduction : uint32_t { REDUCE_SUM = 0, REDUCE_MEAN = 1, REDUCE_MAX = 2, REDUCE_MIN = 3, REDUCE_L2 = 4, REDUCE_L1 = 5, REDUCE_SQUARES = 6 };

struct ReduceParams {
    View in, out;  // strides of what is kept
    Divisor kept[MAX_DIMS];
    Divisor summed[MAX_DIMS];
    int32_t summed_strides[MAX_DIMS];
    uint32_t results;
    uint32_t length;  // elements of each result
    uint32_t kind;
};

__device__ __forceinline__ void places_of_result(const ReduceParams& p, uint32_t result, int64_t& in, int64_t& out) {
    in = 0;
    out = 0;
#pragma unroll
    for (int d = MAX_DIMS - 1; d >= 0; d--) {
        uint32_t outer = p.kept[d].quotient(result);
        int64_t i = result - outer * p.kept[d].divisor;
        result = outer;
        in += i * p.in.strides[d];
        out += i * p.out.strides[d];
    }
}

__device__ __forceinline__ int64_t place_of_summed(const ReduceParams& p, uint32_t index) {
    int64_t place = 0;
#pragma unroll
    for (int d = MAX_DIMS - 1; d >= 0; d--) {
        uint32_t outer = p.summed[d].quotient(index);
        place += static_cast<int64_t>(index - outer * p.summed[d].divisor) * p.summed_strides[d];
        index = outer;
    }
    return place;
}

__device__ __forceinline__ float nothing_yet(uint32_t kind) {
    return kind == REDUCE_MAX ? -INFINITY : (kind == REDUCE_MIN ? INFINITY : 0.0f);
}

__device__ __forceinline__ float with_another(uint32_t kind, float all, float x) {
    switch (kind) {
        case REDUCE_MAX: return fmaxf(all, x);
        case REDUCE_MIN: return fminf(all, x);
        case REDUCE_L1: return all + fabsf(x);
        case REDUCE_L2:
        case REDUCE_SQUARES: return all + x * x;
        default: return all + x;
    }
}

__device__ __forceinline__ float of_all(const ReduceParams& p, float all) {
    if (p.kind == REDUCE_MEAN) return all / static_cast<float>(p.length);
    return p.kind == REDUCE_L2 ? sqrtf(all) : all;
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(128) reduce_columns(const __grid_constant__ graft::ReduceParams p) {
    using namespace graft;
    for (uint32_t result = blockIdx.x * blockDim.x + threadIdx.x; result < p.results; result += gridDim.x * blockDim.x) {
        int64_t in, out;
        places_of_result(p, result, in, out);
        float all = nothing_yet(p.kind);
        for (uint32_t i = 0; i < p.length; i++) all = with_another(p.kind, all, load_float(p.in, in + place_of_summed(p, i)));
        store_float(p.out, out, of_all(p, all));
    }
}

extern "C" __global__ void __launch_bounds__(128) reduce_rows(const __grid_constant__ graft::ReduceParams p) {
    using namespace graft;
    uint32_t lane = threadIdx.x % 32;
    uint32_t warps = gridDim.x * (blockDim.x / 32);
    for (uint32_t result = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; result < p.results; result += warps) {
        int64_t in, out;
        places_of_result(p, result, in, out);
        float all = nothing_yet(p.kind);
        for (uint32_t i = lane; i < p.length; i += 32) all = with_another(p.kind, all, load_float(p.in, in + place_of_summed(p, i)));
#pragma unroll
        for (int other = 16; other > 0; other >>= 1) {
            float theirs = __shfl_xor_sync(0xffffffffu, all, other);
            all = p.kind == REDUCE_MAX ? fmaxf(all, theirs) : (p.kind == REDUCE_MIN ? fminf(all, theirs) : all + theirs);
        }
        if (lane == 0) store_float(p.out, out, of_all(p, all));
    }
}
