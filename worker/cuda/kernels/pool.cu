// Pooling over windows.
//
// Computes   out[n, y, x, c] = the largest, or the mean, of in over a window; elements outside of the input don't count, but for a mean
//            that counts pads, those within the pads do as 0.
// Reference  `reference::pool` (src/reference/layers.rs), in fp64.
// Shapes     As in conv.cu.
// Tile       A thread computes VECTOR (8 or 1) neighbouring channels of one pixel, in fp32.
// Traffic    Each input is read as often as windows overlap, mostly from the caches.
// Launch     Any number of blocks of 256 threads; they stride over all outputs.
#include "common.cuh"

namespace graft {

struct PoolParams {
    const __half* in;
    __half* out;
    uint32_t in_image, in_row, in_pixel, out_pixel;
    uint32_t height, width;
    uint32_t work;  // pixels of all outputs * pieces of VECTOR channels
    Divisor pieces;
    Divisor out_area, out_width;
    uint32_t rows, cols;
    uint32_t stride_y, stride_x, dilation_y, dilation_x;
    int32_t pad_y, pad_x;
    int32_t padded_y, padded_x;  // sizes of the input with its pads, counted from its first element
    uint32_t mean;        // 0: the largest
    uint32_t count_pads;  // for a mean
};

template <int VECTOR>
__device__ __forceinline__ void pool(const PoolParams& p) {
    for (uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; index < p.work; index += gridDim.x * blockDim.x) {
        uint32_t piece = index;
        uint32_t pixel = p.pieces.split(piece);
        uint32_t channel = piece * VECTOR;
        uint32_t rest = pixel;
        uint32_t n = p.out_area.split(rest);
        uint32_t oy = p.out_width.split(rest);
        int32_t y = static_cast<int32_t>(oy * p.stride_y) - p.pad_y;
        int32_t x = static_cast<int32_t>(rest * p.stride_x) - p.pad_x;
        const __half* image = p.in + static_cast<size_t>(n) * p.in_image + channel;
        float all[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) all[i] = p.mean ? 0.0f : -INFINITY;
        uint32_t count = 0;
        for (uint32_t r = 0; r < p.rows; r++) {
            int32_t iy = y + static_cast<int32_t>(r * p.dilation_y);
            for (uint32_t s = 0; s < p.cols; s++) {
                int32_t ix = x + static_cast<int32_t>(s * p.dilation_x);
                bool inside = iy >= 0 && ix >= 0 && iy < static_cast<int32_t>(p.height) && ix < static_cast<int32_t>(p.width);
                if (inside || (p.count_pads && iy < p.padded_y && ix < p.padded_x)) count++;
                if (!inside) continue;
                const __half* from = image + static_cast<size_t>(iy) * p.in_row + static_cast<size_t>(ix) * p.in_pixel;
                float v[VECTOR];
                if constexpr (VECTOR == 8) {
                    Half8 eight = *reinterpret_cast<const Half8*>(from);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float2 pair = __half22float2(eight.pair[i]);
                        v[i * 2] = pair.x;
                        v[i * 2 + 1] = pair.y;
                    }
                } else {
                    v[0] = __half2float(*from);
                }
#pragma unroll
                for (int i = 0; i < VECTOR; i++) all[i] = p.mean ? all[i] + v[i] : (v[i] > all[i] || v[i] != v[i] ? v[i] : all[i]);
            }
        }
        if (p.mean) {
            float part = 1.0f / static_cast<float>(count);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) all[i] *= part;
        }
        __half* to = p.out + static_cast<size_t>(pixel) * p.out_pixel + channel;
        if constexpr (VECTOR == 8) {
            Half8 out;
#pragma unroll
            for (int i = 0; i < 4; i++) out.pair[i] = __floats2half2_rn(all[i * 2], all[i * 2 + 1]);
            *reinterpret_cast<Half8*>(to) = out;
        } else {
            *to = __float2half(all[0]);
        }
    }
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) pool_v8(const __grid_constant__ graft::PoolParams p) { graft::pool<8>(p); }
extern "C" __global__ void __launch_bounds__(256) pool_v1(const __grid_constant__ graft::PoolParams p) { graft::pool<1>(p); }
