// Images of another size, by interpolation between neighbours.
//
// Computes   out[n, y, x, c] = the mean of in at (y.low, y.high) x (x.low, x.high), weighted by y.weight and x.weight
// Reference  `reference::resize` (src/reference/layers.rs), in fp64.
// Shapes     As in conv.cu. `rows` and `cols` tell, for each output row and column, the two inputs between which it lies and the weight of
//            the second: the host works them out, so that a kernel serves every rule of coordinates; nearest has weight 0.
// Tile       A thread computes one element.
// Traffic    Each output reads up to four inputs, mostly from the caches.
// Launch     Any number of blocks of 256 threads; they stride over all outputs.
#include "common.cuh"

namespace graft {

struct Between {
    uint32_t low;
    uint32_t high;
    float weight;
};

struct ResizeParams {
    const __half* in;
    __half* out;
    const Between* rows;
    const Between* cols;
    uint32_t in_image, in_row, in_pixel, out_pixel;
    Divisor out_area, out_width, channels;
    uint32_t elements;
};

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) resize(const __grid_constant__ graft::ResizeParams p) {
    using namespace graft;
    for (uint32_t index = blockIdx.x * blockDim.x + threadIdx.x; index < p.elements; index += gridDim.x * blockDim.x) {
        uint32_t channel = index;
        uint32_t pixel = p.channels.split(channel);
        uint32_t col = pixel;
        uint32_t n = p.out_area.split(col);
        uint32_t row = p.out_width.split(col);
        Between y = p.rows[row];
        Between x = p.cols[col];
        const __half* image = p.in + static_cast<size_t>(n) * p.in_image + channel;
        auto at = [&](uint32_t iy, uint32_t ix) {
            return __half2float(image[static_cast<size_t>(iy) * p.in_row + static_cast<size_t>(ix) * p.in_pixel]);
        };
        float top = at(y.low, x.low);
        if (x.weight != 0.0f) top += (at(y.low, x.high) - top) * x.weight;
        if (y.weight != 0.0f) {
            float bottom = at(y.high, x.low);
            if (x.weight != 0.0f) bottom += (at(y.high, x.high) - bottom) * x.weight;
            top += (bottom - top) * y.weight;
        }
        p.out[static_cast<size_t>(pixel) * p.out_pixel + channel] = __float2half(top);
    }
}
