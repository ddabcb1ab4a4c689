// Depthwise convolution: each output channel sees one input channel.
//
// Computes   out[n, y, x, o] = act2(act1(sum over r, s of in[n, ..., o / m] * w[r, s, o] + bias[o]) + residual[n, y, x, o]),
//            m outputs a channel.
// Reference  `reference::conv` (src/reference/layers.rs), in fp64.
// Shapes     As in conv.cu; weights are [R, S, out channels].
// Tile       A thread computes VECTOR neighbouring channels of one pixel, in fp32; VECTOR is 8 where m is 1 and channels and strides
//            are multiples of 8, else 1.
// Traffic    Bound by memory: each input is read up to R * S times, mostly from the caches; outputs are written once.
// Launch     Any number of blocks of 256 threads; they stride over all outputs.
#include "common.cuh"

namespace graft {

struct DepthwiseParams {
    const __half* in;
    const __half* weights;
    const float* bias;
    const __half* residual;
    __half* out;
    Activation act1;
    Activation act2;
    uint32_t in_image, in_row, in_pixel;
    uint32_t residual_pixel, out_pixel;
    uint32_t height, width;
    uint32_t work;  // pixels of all outputs * pieces of VECTOR channels
    Divisor pieces;
    Divisor out_area, out_width;
    Divisor multiplier;  // outputs of a channel
    uint32_t outputs;
    uint32_t rows, cols;  // of the window
    uint32_t stride_y, stride_x, dilation_y, dilation_x;
    int32_t pad_y, pad_x;
};

template <int VECTOR>
__device__ __forceinline__ void load_halves(float (&to)[VECTOR], const __half* from) {
    if constexpr (VECTOR == 8) {
        Half8 all = *reinterpret_cast<const Half8*>(from);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 pair = __half22float2(all.pair[i]);
            to[i * 2] = pair.x;
            to[i * 2 + 1] = pair.y;
        }
    } else {
        to[0] = __half2float(*from);
    }
}

template <int VECTOR>
__device__ __forceinline__ void depthwise(const DepthwiseParams& p) {
    for (uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; index < p.work; index += gridDim.x * blockDim.x) {
        uint32_t piece = index;
        uint32_t pixel = p.pieces.split(piece);
        uint32_t channel = piece * VECTOR;
        uint32_t rest = pixel;
        uint32_t n = p.out_area.split(rest);
        uint32_t oy = p.out_width.split(rest);
        int32_t y = static_cast<int32_t>(oy * p.stride_y) - p.pad_y;
        int32_t x = static_cast<int32_t>(rest * p.stride_x) - p.pad_x;
        const __half* image = p.in + static_cast<size_t>(n) * p.in_image + p.multiplier.quotient(channel);
        float sum[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sum[i] = p.bias ? p.bias[channel + i] : 0.0f;
        for (uint32_t r = 0; r < p.rows; r++) {
            int32_t iy = y + static_cast<int32_t>(r * p.dilation_y);
            if (iy < 0 || iy >= static_cast<int32_t>(p.height)) continue;
            for (uint32_t s = 0; s < p.cols; s++) {
                int32_t ix = x + static_cast<int32_t>(s * p.dilation_x);
                if (ix < 0 || ix >= static_cast<int32_t>(p.width)) continue;
                float in[VECTOR], w[VECTOR];
                load_halves(in, image + static_cast<size_t>(iy) * p.in_row + static_cast<size_t>(ix) * p.in_pixel);
                load_halves(w, p.weights + (r * p.cols + s) * p.outputs + channel);
#pragma unroll
                for (int i = 0; i < VECTOR; i++) sum[i] += in[i] * w[i];
            }
        }
        activate(p.act1, sum);
        if (p.residual) {
            float more[VECTOR];
            load_halves(more, p.residual + static_cast<size_t>(pixel) * p.residual_pixel + channel);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) sum[i] += more[i];
        }
        activate(p.act2, sum);
        __half* to = p.out + static_cast<size_t>(pixel) * p.out_pixel + channel;
        if constexpr (VECTOR == 8) {
            Half8 out;
#pragma unroll
            for (int i = 0; i < 4; i++) out.pair[i] = __floats2half2_rn(sum[i * 2], sum[i * 2 + 1]);
            *reinterpret_cast<Half8*>(to) = out;
        } else {
            *to = __float2half(sum[0]);
        }
    }
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) depthwise_v8(const __grid_constant__ graft::DepthwiseParams p) {
    graft::depthwise<8>(p);
}
extern "C" __global__ void __launch_bounds__(256) depthwise_v1(const __grid_constant__ graft::DepthwiseParams p) {
    graft::depthwise<1>(p);
}
