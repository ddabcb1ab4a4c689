// Rows by number, as embeddings are looked up.
//
// Computes   out[o, i, e] = data[o, index[i], e]; a negative number counts from the end.
// Reference  `reference::gather` (src/reference/layers.rs).
// Shapes     Numbers are of any integer type and lie side by side. A number without a row sets `fault` to 1 + its place and reads row 0.
// Tile       A thread moves one element.
// Traffic    Each element of the result is read and written once.
// Launch     Any number of blocks of 256 threads; they stride over all elements.
#include "strided.cuh"

namespace graft {

struct GatherParams {
    View data;  // strides of o, row, e
    View index;
    View out;   // strides of o, i, e
    uint32_t* fault;
    uint32_t elements;
    Divisor inner;
    Divisor indices;
    uint32_t rows;
};

}  // namespace graft

extern "C" __global__ void __launch_bounds__(256) gather(const __grid_constant__ graft::GatherParams p) {
    using namespace graft;
    for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < p.elements; at += gridDim.x * blockDim.x) {
        uint32_t e = at;
        uint32_t i = p.inner.split(e);
        uint32_t o = p.indices.split(i);
        int64_t row = load_integer(p.index, static_cast<int64_t>(i) * p.index.strides[0]);
        if (row < 0) row += p.rows;
        if (row < 0 || row >= p.rows) {
            atomicMax(p.fault, 1 + i);
            row = 0;
        }
        int64_t from = static_cast<int64_t>(o) * p.data.strides[0] + row * p.data.strides[1] +
                       static_cast<int64_t>(e) * p.data.strides[2];
        int64_t to = static_cast<int64_t>(o) * p.out.strides[0] + static_cast<int64_t>(i) * p.out.strides[1] +
                     static_cast<int64_t>(e) * p.out.strides[2];
        if (p.data.element == I64 || p.data.element == I32) {
            store_integer(p.out, to, load_integer(p.data, from));
        } else {
            store_float(p.out, to, load_float(p.data, from));
        }
    }
}
