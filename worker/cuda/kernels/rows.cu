// Softmax and layer normalisation of rows.
//
// Computes   softmax:    out[i] = exp(x[i] - most) / sum of exp(x - most), x[i] = in[i] * scale + mask[i]; or its logarithm
//            layer_norm: out[i] = (in[i] - mean) / sqrt(variance + epsilon) * gain[i] + offset[i]
// Reference  `reference::softmax`, `reference::layer_norm` (src/reference/layers.rs), in fp64.
// Shapes     Up to 6 dimensions; the last is the row, the others number the rows. Any layout and element type; sums are fp32.
// Tile       A warp takes a row, lanes stride over its elements, which come from the caches the second and third time.
// Traffic    Each row is read once from memory, and written once.
// Launch     Any number of blocks of 128 threads; warps stride over the rows.
#include "strided.cuh"

namespace graft {

struct RowsParams {
    View in, out;
    View mask;    // softmax; null: none
    View gain;    // layer_norm; null: 1
    View offset;  // layer_norm; null: 0
    Divisor sizes[MAX_DIMS];
    uint32_t rows;
    uint32_t length;
    float scale;    // softmax
    float epsilon;  // layer_norm
    uint32_t logarithm;  // softmax; 1: its logarithm
};

struct RowPlaces {
    int64_t in, out, mask;
};

__device__ __forceinline__ RowPlaces places_of_row(const RowsParams& p, uint32_t row) {
    RowPlaces at{0, 0, 0};
#pragma unroll
    for (int d = MAX_DIMS - 2; d >= 0; d--) {
        uint32_t outer = p.sizes[d].quotient(row);
        int64_t i = row - outer * p.sizes[d].divisor;
        row = outer;
        at.in += i * p.in.strides[d];
        at.out += i * p.out.strides[d];
        at.mask += i * p.mask.strides[d];
    }
    return at;
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(128) softmax(const __grid_constant__ graft::RowsParams p) {
    using namespace graft;
    uint32_t lane = threadIdx.x % 32;
    uint32_t warps = gridDim.x * (blockDim.x / 32);
    for (uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < p.rows; row += warps) {
        RowPlaces at = places_of_row(p, row);
        constexpr int LAST = MAX_DIMS - 1;
        auto element = [&](uint32_t i) {
            float x = load_float(p.in, at.in + static_cast<int64_t>(i) * p.in.strides[LAST]) * p.scale;
            if (p.mask.at) x += load_float(p.mask, at.mask + static_cast<int64_t>(i) * p.mask.strides[LAST]);
            return x;
        };
        float most = -INFINITY;
        for (uint32_t i = lane; i < p.length; i += 32) most = fmaxf(most, element(i));
        most = most_over_warp(most);
        float sum = 0.0f;
        for (uint32_t i = lane; i < p.length; i += 32) sum += __expf(element(i) - most);
        sum = sum_over_warp(sum);
        float part = 1.0f / sum;
        float log_sum = logf(sum);
        for (uint32_t i = lane; i < p.length; i += 32) {
            float x = element(i) - most;
            float result = p.logarithm ? x - log_sum : __expf(x) * part;
            store_float(p.out, at.out + static_cast<int64_t>(i) * p.out.strides[LAST], result);
        }
    }
}

extern "C" __global__ void __launch_bounds__(128) layer_norm(const __grid_constant__ graft::RowsParams p) {
    using namespace graft;
    uint32_t lane = threadIdx.x % 32;
    uint32_t warps = gridDim.x * (blockDim.x / 32);
    for (uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < p.rows; row += warps) {
        RowPlaces at = places_of_row(p, row);
        constexpr int LAST = MAX_DIMS - 1;
        auto element = [&](uint32_t i) {
            return load_float(p.in, at.in + static_cast<int64_t>(i) * p.in.strides[LAST]);
        };
        float sum = 0.0f;
        for (uint32_t i = lane; i < p.length; i += 32) sum += element(i);
        float mean = sum_over_warp(sum) / static_cast<float>(p.length);
        float squares = 0.0f;
        for (uint32_t i = lane; i < p.length; i += 32) {
            float from_mean = element(i) - mean;
            squares += from_mean * from_mean;
        }
        float scale = rsqrtf(sum_over_warp(squares) / static_cast<float>(p.length) + p.epsilon);
        for (uint32_t i = lane; i < p.length; i += 32) {
            float x = (element(i) - mean) * scale;
            if (p.gain.at) x *= load_float(p.gain, static_cast<int64_t>(i) * p.gain.strides[LAST]);
            if (p.offset.at) x += load_float(p.offset, static_cast<int64_t>(i) * p.offset.strides[LAST]);
            store_float(p.out, at.out + static_cast<int64_t>(i) * p.out.strides[LAST], x);
        }
    }
}
