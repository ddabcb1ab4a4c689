// Attention, with no matrix of scores in memory.
//
// Computes   out[b, h, i, :] = sum over j of softmax over j of (scale * q[b, h, i, :] . k[b, h, j, :] + mask[b, h, i, j]) * v[b, h, j, :]
// Reference  `reference::attention` (src/reference/layers.rs), in fp64. After: Dao 2023 (FlashAttention-2).
// Shapes     Heads of up to DEPTH (32, 64, 96 or 128) elements, which lie side by side; other strides are free; where depth and strides
//            are multiples of 8, VECTOR is 8, else 1. The mask is added in fp32.
// Tile       64 queries (4 warps of 16) by 64 keys; scores, maxima and sums stay in registers, in fp32, the weights of a row are
//            rounded to fp16 for the product with values.
// Traffic    Keys and values are read once for each 64 queries.
// Launch     Any number of blocks of 128 threads; they stride over (b, h, 64 queries).
#include "strided.cuh"
#include "tile.cuh"

namespace graft {

struct AttentionParams {
    const __half* q;
    const __half* k;
    const __half* v;
    __half* out;
    int32_t q_strides[3];  // of b, h, i
    int32_t k_strides[3];
    int32_t v_strides[3];
    int32_t out_strides[3];
    View mask;  // strides of b, h, i, j; null: none
    Divisor heads;
    Divisor query_tiles;
    uint32_t work;  // b * h * query tiles
    uint32_t queries, keys, depth;
    float scale;
};

constexpr float LOG2_E = 1.44269504f;

template <int DEPTH, int VECTOR>
struct Attention {
    static constexpr int SLABS = DEPTH / TILE_K;  // tiles of 32 that a head has
    struct Shared {
        __half q[SLABS][64 * TILE_K];
        __half k[SLABS][64 * TILE_K];
        __half v[SLABS][64 * TILE_K];
    };

    // Copies 64 rows; what is outside becomes 0.
    __device__ __forceinline__ static void load(__half (*to)[64 * TILE_K], const __half* from, int32_t stride,
                                                uint32_t first, uint32_t rows, uint32_t depth) {
#pragma unroll 4
        for (int i = threadIdx.x; i < 64 * DEPTH / VECTOR; i += 128) {
            int row = i / (DEPTH / VECTOR);
            int d = i % (DEPTH / VECTOR) * VECTOR;
            bool inside = first + row < rows && d < static_cast<int>(depth);
            const __half* at = inside ? from + static_cast<int64_t>(first + row) * stride + d : from;
            __half* place = to[d / TILE_K] + place_in_tile(row, d % TILE_K);
            if constexpr (VECTOR == 8) {
                copy_async<16>(shared_address(place), at, inside);
            } else {
                *place = inside ? *at : __float2half(0.0f);
            }
        }
    }

    __device__ __forceinline__ static void run(const AttentionParams& p, Shared& shared) {
        int lane = threadIdx.x % 32;
        int warp_row = threadIdx.x / 32 * 16;
        for (uint32_t work = blockIdx.x; work < p.work; work += gridDim.x) {
            uint32_t query_tile = work;
            uint32_t h = p.query_tiles.split(query_tile);
            uint32_t b = p.heads.split(h);
            uint32_t first_query = query_tile * 64;
            auto head = [&](const __half* at, const int32_t* strides) {
                return at + static_cast<int64_t>(b) * strides[0] + static_cast<int64_t>(h) * strides[1];
            };
            __syncthreads();
            load(shared.q, head(p.q, p.q_strides), p.q_strides[2], first_query, p.queries, p.depth);
            float out[DEPTH / 8][4] = {};
            float most[2] = {-INFINITY, -INFINITY};
            float sum[2] = {0.0f, 0.0f};
            int64_t mask_at = static_cast<int64_t>(b) * p.mask.strides[0] + static_cast<int64_t>(h) * p.mask.strides[1];
#pragma unroll 1
            for (uint32_t first_key = 0; first_key < p.keys; first_key += 64) {
                load(shared.k, head(p.k, p.k_strides), p.k_strides[2], first_key, p.keys, p.depth);
                load(shared.v, head(p.v, p.v_strides), p.v_strides[2], first_key, p.keys, p.depth);
                commit_copies();
                wait_for_copies<0>();
                __syncthreads();
                float scores[8][4] = {};
#pragma unroll
                for (int k = 0; k < DEPTH / 16; k++) {
                    uint32_t left[4];
                    int piece = k % 2 * 2 + lane / 16;
                    load_matrices(left, shared_address(shared.q[k / 2] + swizzled(warp_row + lane % 16, piece)));
#pragma unroll
                    for (int j = 0; j < 8; j += 2) {
                        uint32_t right[4];
                        load_matrices(right, shared_address(shared.k[k / 2] + swizzled(j * 8 + lane % 16, piece)));
                        multiply_add(scores[j], left, right[0], right[2]);
                        multiply_add(scores[j + 1], left, right[1], right[3]);
                    }
                }
                float next[2] = {most[0], most[1]};
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        uint32_t key = first_key + j * 8 + lane % 4 * 2 + e % 2;
                        uint32_t query = first_query + warp_row + lane / 4 + e / 2 * 8;
                        float score = scores[j][e] * p.scale;
                        if (p.mask.at && key < p.keys && query < p.queries) {
                            int64_t at = mask_at + static_cast<int64_t>(query) * p.mask.strides[2] +
                                         static_cast<int64_t>(key) * p.mask.strides[3];
                            score += p.mask.element == F32 ? static_cast<const float*>(p.mask.at)[at]
                                                           : __half2float(static_cast<const __half*>(p.mask.at)[at]);
                        }
                        scores[j][e] = key < p.keys ? score : -INFINITY;
                        next[e / 2] = fmaxf(next[e / 2], scores[j][e]);
                    }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    next[half] = fmaxf(next[half], __shfl_xor_sync(0xffffffffu, next[half], 1));
                    next[half] = fmaxf(next[half], __shfl_xor_sync(0xffffffffu, next[half], 2));
                    // While all keys were masked out with minus infinity: nothing to scale.
                    float before = most[half] == -INFINITY ? 0.0f : exp2f((most[half] - next[half]) * LOG2_E);
                    most[half] = next[half];
                    sum[half] *= before;
#pragma unroll
                    for (int d = 0; d < DEPTH / 8; d++) {
                        out[d][half * 2] *= before;
                        out[d][half * 2 + 1] *= before;
                    }
                }
                uint32_t weights[8][2];
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float base = most[half] == -INFINITY ? 0.0f : most[half];
                        float x = exp2f((scores[j][half * 2] - base) * LOG2_E);
                        float y = exp2f((scores[j][half * 2 + 1] - base) * LOG2_E);
                        sum[half] += x + y;
                        __half2 pair = __floats2half2_rn(x, y);
                        weights[j][half] = *reinterpret_cast<uint32_t*>(&pair);
                    }
#pragma unroll
                for (int j = 0; j < 8; j += 2) {
                    uint32_t left[4] = {weights[j][0], weights[j][1], weights[j + 1][0], weights[j + 1][1]};
#pragma unroll
                    for (int d = 0; d < DEPTH / 8; d += 2) {
                        uint32_t right[4];
                        load_matrices_transposed(
                            right, shared_address(shared.v[d / 4] + swizzled(j * 8 + lane % 16, d % 4 + lane / 16)));
                        multiply_add(out[d], left, right[0], right[1]);
                        multiply_add(out[d + 1], left, right[2], right[3]);
                    }
                }
                __syncthreads();
            }
            __half* to = p.out + static_cast<int64_t>(b) * p.out_strides[0] + static_cast<int64_t>(h) * p.out_strides[1];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
                sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
                float part = 1.0f / sum[half];
                uint32_t query = first_query + warp_row + lane / 4 + half * 8;
                if (query >= p.queries) continue;
                __half* row = to + static_cast<int64_t>(query) * p.out_strides[2];
#pragma unroll
                for (int d = 0; d < DEPTH / 8; d++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        uint32_t at = d * 8 + lane % 4 * 2 + e;
                        if (at < p.depth) row[at] = __float2half(out[d][half * 2 + e] * part);
                    }
            }
        }
    }
};

}  // namespace graft

#define ATTENTION(DEPTH, VECTOR)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                   \
        attention_##DEPTH##_v##VECTOR(const __grid_constant__ graft::AttentionParams p) {                               \
        using Kernel = graft::Attention<DEPTH, VECTOR>;                                                                 \
        __shared__ alignas(16) typename Kernel::Shared shared;                                                          \
        Kernel::run(p, shared);                                                                                         \
    }

ATTENTION(32, 8)
ATTENTION(64, 8)
ATTENTION(96, 8)
ATTENTION(128, 8)
ATTENTION(32, 1)
ATTENTION(128, 1)
