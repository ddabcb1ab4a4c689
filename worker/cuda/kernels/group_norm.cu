// Normalisation of groups of channels over all pixels of an image.
//
// Computes   out[n, p, c] = act((in[n, p, c] - mean) / sqrt(variance + epsilon) * gain[c] + offset[c]), mean and variance over the pixels
//            and the channels of c's group.
// Reference  `reference::group_norm` (src/reference/layers.rs), in fp64.
// Shapes     Pixels of an image lie at one stride, channels side by side.
// Tile       A block takes a group of an image; sums are fp32.
// Traffic    Each element is read three times, the second and third time from the caches, and written once.
// Launch     Any number of blocks of 256 threads; they stride over the groups.
#include "common.cuh"

namespace graft {

struct GroupNormParams {
    const __half* in;
    __half* out;
    const float* gain;
    const float* offset;
    Activation activation;
    uint32_t in_image, in_pixel, out_image, out_pixel;
    uint32_t work;  // images * groups
    Divisor groups;
    Divisor channels;  // of a group
    uint32_t elements;  // of a group: pixels * channels
    float epsilon;
};

__device__ __forceinline__ float sum_over_block(float x, float* shared) {
    x = sum_over_warp(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float all = 0.0f;
    for (uint32_t w = 0; w < blockDim.x / 32; w++) all += shared[w];
    __syncthreads();
    return all;
}

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) group_norm(const __grid_constant__ graft::GroupNormParams p) {
    using namespace graft;
    __shared__ float sums[8];
    for (uint32_t work = blockIdx.x; work < p.work; work += gridDim.x) {
        uint32_t group = work;
        uint32_t image = p.groups.split(group);
        uint32_t first = group * p.channels.divisor;
        const __half* in = p.in + static_cast<size_t>(image) * p.in_image + first;
        __half* out = p.out + static_cast<size_t>(image) * p.out_image + first;
        auto element = [&](uint32_t i) {
            uint32_t pixel = p.channels.split(i);
            return __half2float(in[static_cast<size_t>(pixel) * p.in_pixel + i]);
        };
        float sum = 0.0f;
        for (uint32_t i = threadIdx.x; i < p.elements; i += blockDim.x) sum += element(i);
        float mean = sum_over_block(sum, sums) / static_cast<float>(p.elements);
        float squares = 0.0f;
        for (uint32_t i = threadIdx.x; i < p.elements; i += blockDim.x) {
            float from_mean = element(i) - mean;
            squares += from_mean * from_mean;
        }
        float scale = rsqrtf(sum_over_block(squares, sums) / static_cast<float>(p.elements) + p.epsilon);
        for (uint32_t i = threadIdx.x; i < p.elements; i += blockDim.x) {
            uint32_t channel = i;
            uint32_t pixel = p.channels.split(channel);
            float v[1] = {(__half2float(in[static_cast<size_t>(pixel) * p.in_pixel + channel]) - mean) * scale *
                              p.gain[first + channel] + p.offset[first + channel]};
            activate(p.activation, v);
            out[static_cast<size_t>(pixel) * p.out_pixel + channel] = __float2half(v[0]);
        }
    }
}
