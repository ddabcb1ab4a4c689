// Convolution, and the product of activations with weights, as an implicit matrix product.
//
// Computes   out[n, y, x, o] = act2(act1(sum over r, s, c of in[n, y * stride - pad + r * dilation, ..., c] * w[o, r, s, c] + bias[o])
//                                   + residual[n, y, x, o])
// Reference  `reference::conv` (src/reference/layers.rs), in fp64.
// Shapes     A pixel of the input is a row of channels; pixels, rows and images lie at strides of their own, so that input and
//            output may be channels of a wider tensor. Weights are [groups, out channels, K] with K = R * S * channels, filled up
//            with zeros to a multiple of 32. A matrix product is a convolution of 1 x 1 pixels.
// Tile       M x N outputs by 32 of K, three tiles in flight; M x N is 64 x 64 (4 warps) or 128 x 64, 128 x 128 (8 warps).
// Traffic    A reads M * 64 bytes a step, B N * 64 bytes; outputs are written once. Each thread copies VECTOR halves at a time:
//            8 where channels and strides are multiples of 8, else 4, 2 or 1.
// Launch     stream-K (Osama et al. 2023): any number of blocks share the steps of all tiles evenly. Who computes part of a tile
//            leaves its sum in `partial`; the last of them (counted in `arrived`, which is 0 before and after) adds all parts in
//            the order of K, so that a result does not depend on who came last.
#include "tile.cuh"

namespace graft {

struct ConvParams {
    const __half* in;
    const __half* weights;
    const float* bias;       // per output channel; null: none
    const __half* residual;  // null: none
    __half* out;
    float* partial;     // two tiles a block
    uint32_t* arrived;  // steps that were done, for each tile
    Activation act1;
    Activation act2;
    // Strides in elements.
    uint32_t in_image, in_row, in_pixel;
    uint32_t residual_pixel, out_pixel;
    uint32_t height, width;      // of the input
    uint32_t pixels;             // of all outputs: images * height * width
    Divisor out_area, out_width; // of the output
    uint32_t channels;           // of a group's input
    uint32_t outputs;            // of a group
    uint32_t depth;              // K
    uint32_t depth_padded;       // K in weights
    Divisor window_row;          // S * channels
    Divisor window_pixel;        // channels
    uint32_t stride_y, stride_x, dilation_y, dilation_x;
    int32_t pad_y, pad_x;
    Divisor tiles_n;         // tiles over a group's outputs
    Divisor tiles_mn;        // tiles of a group
    uint32_t tiles;          // of all groups
    Divisor steps;           // of K, of one tile
};

constexpr int STAGES = 3;

template <int M, int N, int WARPS_M, int WARPS_N, int VECTOR>
struct Conv {
    using Tile = BlockTile<M, N, WARPS_M, WARPS_N>;
    static constexpr int THREADS = Tile::THREADS;
    static constexpr int PIECES = TILE_K / VECTOR;         // of a row of A
    static constexpr int ROWS_AT_ONCE = THREADS / PIECES;  // that all threads copy together
    static constexpr int COPIES = M / ROWS_AT_ONCE;
    static constexpr int B_COPIES = N * 4 / THREADS;

    static constexpr int PITCH = N + 4;  // floats of a row of sums: rows begin in different banks
    static constexpr int PASSES = M * PITCH * 4 <= STAGES * (M + N) * TILE_K * 2 ? 1 : 2;
    static constexpr int PASS_ROWS = M / PASSES;

    struct Tiles {
        __half a[STAGES][M * TILE_K];
        __half b[STAGES][N * TILE_K];
    };
    union Shared {
        Tiles tiles;
        float sums[PASS_ROWS * PITCH];
        bool last;
    };

    const ConvParams& p;
    Shared& shared;
    // Of each of the thread's rows: its image's and its pixel's place.
    const __half* image[COPIES];
    int32_t y[COPIES];
    int32_t x[COPIES];
    const __half* weights;

    __device__ __forceinline__ Conv(const ConvParams& params, Shared& s) : p(params), shared(s) {}

    __device__ __forceinline__ void begin(uint32_t group, uint32_t first_pixel, uint32_t first_output) {
        int row = threadIdx.x / PIECES;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            uint32_t pixel = first_pixel + row + i * ROWS_AT_ONCE;
            uint32_t n = p.out_area.split(pixel);
            uint32_t oy = p.out_width.split(pixel);
            bool inside = first_pixel + row + i * ROWS_AT_ONCE < p.pixels;
            image[i] = p.in + (inside ? static_cast<size_t>(n) * p.in_image : 0) + group * p.channels;
            // Beyond the last pixel: a row that no window reaches.
            y[i] = inside ? static_cast<int32_t>(oy * p.stride_y) - p.pad_y : INT32_MIN / 2;
            x[i] = static_cast<int32_t>(pixel * p.stride_x) - p.pad_x;
        }
        weights = p.weights + (static_cast<size_t>(group) * p.outputs + first_output) * p.depth_padded;
    }

    __device__ __forceinline__ void load(int stage, uint32_t step, uint32_t first_output) {
        uint32_t k = step * TILE_K + threadIdx.x % PIECES * VECTOR;
        uint32_t c = k;
        uint32_t r = p.window_row.split(c);
        uint32_t s = p.window_pixel.split(c);
        int row = threadIdx.x / PIECES;
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            int32_t iy = y[i] + static_cast<int32_t>(r * p.dilation_y);
            int32_t ix = x[i] + static_cast<int32_t>(s * p.dilation_x);
            bool inside = k < p.depth && iy >= 0 && ix >= 0 && iy < static_cast<int32_t>(p.height) &&
                          ix < static_cast<int32_t>(p.width);
            const __half* from =
                inside ? image[i] + static_cast<size_t>(iy) * p.in_row + static_cast<size_t>(ix) * p.in_pixel + c : p.in;
            __half* to = shared.tiles.a[stage] + place_in_tile(row + i * ROWS_AT_ONCE, threadIdx.x % PIECES * VECTOR);
            if constexpr (VECTOR == 1) {
                *to = inside ? *from : __float2half(0.0f);
            } else {
                copy_async<VECTOR * 2>(shared_address(to), from, inside);
            }
        }
#pragma unroll
        for (int i = 0; i < B_COPIES; i++) {
            int piece = threadIdx.x + i * THREADS;
            int row = piece / 4;
            bool inside = first_output + row < p.outputs;
            const __half* from =
                weights + (inside ? static_cast<size_t>(row) * p.depth_padded : 0) + step * TILE_K + piece % 4 * 8;
            copy_async<16>(shared_address(shared.tiles.b[stage] + swizzled(row, piece % 4)), inside ? from : p.weights, inside);
        }
    }

    // Adds up the steps [from, to) of a tile.
    __device__ __forceinline__ void add_steps(Tile& tile, uint32_t from, uint32_t to, uint32_t first_output) {
        tile.clear();
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            if (from + s < to) load(s, from + s, first_output);
            commit_copies();
        }
        int stage = 0;
#pragma unroll 1
        for (uint32_t step = from; step < to; step++) {
            wait_for_copies<STAGES - 2>();
            __syncthreads();
            uint32_t next = step + STAGES - 1;
            if (next < to) load((stage + STAGES - 1) % STAGES, next, first_output);
            commit_copies();
            tile.add_product(shared.tiles.a[stage], shared.tiles.b[stage]);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        wait_for_copies<0>();
        __syncthreads();
    }

    // Adds what belongs to eight neighbouring outputs of a pixel, and writes those that there are.
    __device__ __forceinline__ void put(float (&v)[8], uint32_t pixel, uint32_t group, uint32_t output, bool whole) {
        uint32_t channel = group * p.outputs + output;
        uint32_t count = min(p.outputs - output, 8u);
        if (p.bias) {
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                if (i < count) v[i] += p.bias[channel + i];
        }
        activate(p.act1, v);
        if (p.residual) {
            const __half* at = p.residual + static_cast<size_t>(pixel) * p.residual_pixel + channel;
            if (whole) {
                Half8 more = *reinterpret_cast<const Half8*>(at);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float2 pair = __half22float2(more.pair[i]);
                    v[i * 2] += pair.x;
                    v[i * 2 + 1] += pair.y;
                }
            } else {
#pragma unroll
                for (uint32_t i = 0; i < 8; i++)
                    if (i < count) v[i] += __half2float(at[i]);
            }
        }
        activate(p.act2, v);
        __half* to = p.out + static_cast<size_t>(pixel) * p.out_pixel + channel;
        if (whole) {
            Half8 out;
#pragma unroll
            for (int i = 0; i < 4; i++) out.pair[i] = __floats2half2_rn(v[i * 2], v[i * 2 + 1]);
            *reinterpret_cast<Half8*>(to) = out;
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 8; i++)
                if (i < count) to[i] = __float2half(v[i]);
        }
    }

    // Writes a tile's outputs, by way of shared memory, so that neighbouring threads write neighbouring channels.
    __device__ __forceinline__ void finish(Tile& tile, uint32_t group, uint32_t first_pixel, uint32_t first_output) {
        uint32_t strides = p.out_pixel | p.outputs | (p.residual ? p.residual_pixel : 0);
        uint64_t places = reinterpret_cast<uint64_t>(p.out) | reinterpret_cast<uint64_t>(p.residual);
        bool whole = strides % 8 == 0 && places % 16 == 0;
#pragma unroll 1
        for (int pass = 0; pass < PASSES; pass++) {
            int first_row = pass * PASS_ROWS;
            tile.each_pair([&](int row, int col, float a, float b) {
                if (PASSES > 1 && (row < first_row || row >= first_row + PASS_ROWS)) return;
                *reinterpret_cast<float2*>(&shared.sums[(row - first_row) * PITCH + col]) = make_float2(a, b);
            });
            __syncthreads();
#pragma unroll 1
            for (int piece = threadIdx.x; piece < PASS_ROWS * (N / 8); piece += THREADS) {
                int row = piece / (N / 8);
                int col = piece % (N / 8) * 8;
                uint32_t pixel = first_pixel + first_row + row;
                if (pixel >= p.pixels || first_output + col >= p.outputs) continue;
                const float4* from = reinterpret_cast<const float4*>(&shared.sums[row * PITCH + col]);
                float4 low = from[0];
                float4 high = from[1];
                float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                put(v, pixel, group, first_output + col, whole);
            }
            __syncthreads();
        }
    }

    // A block's part of all steps begins here. Below 2^31, as the host sees to.
    __device__ __forceinline__ uint32_t part_begins(uint32_t block) const {
        uint64_t all = static_cast<uint64_t>(p.tiles) * p.steps.divisor;
        return static_cast<uint32_t>(all * block / gridDim.x);
    }

    // Where this thread's share of a partial tile lies: block's tile 0 is the one that it begins in, 1 the one that it ends in.
    __device__ __forceinline__ float* partial_of(uint32_t block, uint32_t which) const {
        return p.partial + (static_cast<size_t>(block) * 2 + which) * (M * N) + threadIdx.x;
    }

    __device__ __forceinline__ void run() {
        uint32_t at = part_begins(blockIdx.x);
        uint32_t end = part_begins(blockIdx.x + 1);
        bool beginning = true;
        while (at < end) {
            uint32_t tile_index = p.steps.quotient(at);
            uint32_t tile_start = tile_index * p.steps.divisor;
            uint32_t from = at - tile_start;
            uint32_t to = min(end - tile_start, p.steps.divisor);
            uint32_t rest = tile_index;
            uint32_t group = p.tiles_mn.split(rest);
            uint32_t m = p.tiles_n.split(rest);
            uint32_t first_pixel = m * M;
            uint32_t first_output = rest * N;
            Tile tile;
            begin(group, first_pixel, first_output);
            add_steps(tile, from, to, first_output);
            if (from == 0 && to == p.steps.divisor) {
                finish(tile, group, first_pixel, first_output);
            } else if (leave_or_take(tile, tile_index, tile_start, to - from, beginning ? 0 : 1)) {
                finish(tile, group, first_pixel, first_output);
            }
            at = tile_start + to;
            beginning = false;
        }
    }

    // Leaves a partial sum; the last one of a tile takes all.
    __device__ __forceinline__ bool leave_or_take(Tile& tile, uint32_t tile_index, uint32_t tile_start, uint32_t done,
                                                  uint32_t which) {
        float* mine = partial_of(blockIdx.x, which);
        constexpr int EACH = M * N / THREADS;
        float* sums = &tile.sum[0][0][0];
#pragma unroll
        for (int i = 0; i < EACH; i++) mine[i * THREADS] = sums[i];
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t before = atomicAdd(p.arrived + tile_index, done);
            shared.last = before + done == p.steps.divisor;
            if (shared.last) p.arrived[tile_index] = 0;
        }
        __syncthreads();
        bool last = shared.last;
        __syncthreads();  // all have looked, before the place is used for tiles again
        if (!last) return false;
        __threadfence();
        tile.clear();
        uint64_t all = static_cast<uint64_t>(p.tiles) * p.steps.divisor;
        uint32_t block = static_cast<uint32_t>(((tile_start + 1ull) * gridDim.x - 1) / all);
#pragma unroll 1
        for (; block < gridDim.x; block++) {
            uint32_t begins = part_begins(block);
            if (begins >= tile_start + p.steps.divisor) break;
            if (part_begins(block + 1) <= tile_start) continue;
            const float* other = partial_of(block, begins >= tile_start ? 0 : 1);
#pragma unroll
            for (int i = 0; i < EACH; i++) sums[i] += other[i * THREADS];
        }
        __syncthreads();
        return true;
    }
};

}  // namespace graft

#define CONV(M, N, WARPS_M, WARPS_N, VECTOR)                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS_M* WARPS_N * 32)                                        \
        conv_##M##x##N##_v##VECTOR(const __grid_constant__ graft::ConvParams p) {                              \
        using Kernel = graft::Conv<M, N, WARPS_M, WARPS_N, VECTOR>;                                            \
        __shared__ alignas(16) typename Kernel::Shared shared;                                                 \
        Kernel(p, shared).run();                                                                               \
    }

#define CONV_VECTORS(M, N, WARPS_M, WARPS_N) \
    CONV(M, N, WARPS_M, WARPS_N, 8)          \
    CONV(M, N, WARPS_M, WARPS_N, 4)          \
    CONV(M, N, WARPS_M, WARPS_N, 2)          \
    CONV(M, N, WARPS_M, WARPS_N, 1)

CONV_VECTORS(64, 64, 2, 2)
CONV(128, 64, 4, 2, 8)
CONV(128, 128, 2, 4, 8)
