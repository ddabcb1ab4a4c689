// The product of activations with activations.
//
// Computes   out[b, m, n] = act(scale * sum over k of left[b, m, k] * right[b, k, n])
// Reference  `reference::matmul` (src/reference/layers.rs), in fp64.
// Shapes     Up to 4 dimensions of b; any strides.
// Tile       64 x 64 outputs (4 warps) by 32 of K; elements are copied one by one, whatever their layout.
// Traffic    Both operands are read once for each tile that they belong to.
// Launch     Any number of blocks of 128 threads; they stride over the tiles.
#include "tile.cuh"

namespace graft {

struct MatmulParams {
    const __half* left;
    const __half* right;
    __half* out;
    int32_t left_strides[6];   // of the four dimensions of b, m, k
    int32_t right_strides[6];  // of b, n, k
    int32_t out_strides[6];    // of b, m, n
    Divisor sizes[4];
    uint32_t m, n, k;
    Divisor tiles_n, tiles_mn;
    uint32_t tiles;
    float scale;
    Activation activation;
};

}  // namespace graft

extern "C" __global__ void __launch_bounds__(128) matmul_64x64(const __grid_constant__ graft::MatmulParams p) {
    using namespace graft;
    using Tile = BlockTile<64, 64, 2, 2>;
    __shared__ alignas(16) __half left[64 * TILE_K];
    __shared__ alignas(16) __half right[64 * TILE_K];
    for (uint32_t work = blockIdx.x; work < p.tiles; work += gridDim.x) {
        uint32_t rest = work;
        uint32_t batch = p.tiles_mn.split(rest);
        uint32_t first_m = p.tiles_n.split(rest) * 64;
        uint32_t first_n = rest * 64;
        const __half* from_left = p.left;
        const __half* from_right = p.right;
        __half* to = p.out;
#pragma unroll
        for (int d = 3; d >= 0; d--) {
            uint32_t outer = p.sizes[d].quotient(batch);
            int64_t i = batch - outer * p.sizes[d].divisor;
            batch = outer;
            from_left += i * p.left_strides[d];
            from_right += i * p.right_strides[d];
            to += i * p.out_strides[d];
        }
        Tile tile;
        tile.clear();
        for (uint32_t first_k = 0; first_k < p.k; first_k += TILE_K) {
#pragma unroll 4
            for (int i = threadIdx.x; i < 64 * TILE_K; i += 128) {
                int row = i / TILE_K;
                int k = i % TILE_K;
                bool deep = first_k + k < p.k;
                bool has_left = deep && first_m + row < p.m;
                bool has_right = deep && first_n + row < p.n;
                int64_t at = first_k + k;
                left[place_in_tile(row, k)] =
                    has_left ? from_left[static_cast<int64_t>(first_m + row) * p.left_strides[4] + at * p.left_strides[5]]
                             : __float2half(0.0f);
                right[place_in_tile(row, k)] =
                    has_right ? from_right[static_cast<int64_t>(first_n + row) * p.right_strides[4] + at * p.right_strides[5]]
                              : __float2half(0.0f);
            }
            __syncthreads();
            tile.add_product(left, right);
            __syncthreads();
        }
        tile.each_pair([&](int row, int col, float a, float b) {
            float v[2] = {a * p.scale, b * p.scale};
            activate(p.activation, v);
            if (first_m + row >= p.m) return;
            __half* at = to + static_cast<int64_t>(first_m + row) * p.out_strides[4];
            int64_t n = first_n + col;
            if (n < p.n) at[n * p.out_strides[5]] = __float2half(v[0]);
            if (n + 1 < p.n) at[(n + 1) * p.out_strides[5]] = __float2half(v[1]);
        });
    }
}
