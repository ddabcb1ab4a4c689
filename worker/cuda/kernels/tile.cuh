// The product of two tiles of halves that lie in shared memory, summed in fp32.
//
// A tile is ROWS x 32 halves, 64 bytes a row in four pieces of 16 bytes; piece p of row r lies at place p ^ (r / 2) % 4, so
// that the eight rows of a matrix that ldmatrix reads lie in different banks.
#pragma once

#include "common.cuh"

namespace graft {

constexpr int TILE_K = 32;  // halves of a row

__device__ __forceinline__ int swizzled(int row, int piece) { return row * TILE_K + ((piece ^ (row >> 1)) & 3) * 8; }

// Place of a single half in a tile.
__device__ __forceinline__ int place_in_tile(int row, int k) { return swizzled(row, k >> 3) + (k & 7); }

// A block's tile of M x N, divided over WARPS_M x WARPS_N warps.
template <int M, int N, int WARPS_M, int WARPS_N>
struct BlockTile {
    static constexpr int ROWS = M / WARPS_M;  // of a warp
    static constexpr int COLS = N / WARPS_N;
    static constexpr int STEPS_M = ROWS / 16;
    static constexpr int STEPS_N = COLS / 8;
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static_assert(ROWS % 16 == 0 && COLS % 16 == 0, "ldmatrix reads 16 rows");

    float sum[STEPS_M][STEPS_N][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < STEPS_M; i++)
#pragma unroll
            for (int j = 0; j < STEPS_N; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
    }

    __device__ __forceinline__ static int first_row() { return (threadIdx.x / 32) / WARPS_N * ROWS; }
    __device__ __forceinline__ static int first_col() { return (threadIdx.x / 32) % WARPS_N * COLS; }

    // sum += a * transposed(b), a: M x 32, b: N x 32.
    __device__ __forceinline__ void add_product(const __half* a, const __half* b) {
        int lane = threadIdx.x % 32;
        int row = lane % 16;
#pragma unroll
        for (int k = 0; k < TILE_K / 16; k++) {
            uint32_t left[STEPS_M][4];
#pragma unroll
            for (int i = 0; i < STEPS_M; i++)
                load_matrices(left[i], shared_address(a + swizzled(first_row() + i * 16 + row, k * 2 + lane / 16)));
#pragma unroll
            for (int j = 0; j < STEPS_N; j += 2) {
                uint32_t right[4];
                load_matrices(right, shared_address(b + swizzled(first_col() + j * 8 + row, k * 2 + lane / 16)));
#pragma unroll
                for (int i = 0; i < STEPS_M; i++) {
                    multiply_add(sum[i][j], left[i], right[0], right[2]);
                    multiply_add(sum[i][j + 1], left[i], right[1], right[3]);
                }
            }
        }
    }

    // Calls f(row, column, x, y) for each pair of neighbours x, y of a row that this thread holds.
    template <typename F>
    __device__ __forceinline__ void each_pair(F f) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < STEPS_M; i++)
#pragma unroll
            for (int j = 0; j < STEPS_N; j++) {
                int row = first_row() + i * 16 + lane / 4;
                int col = first_col() + j * 8 + lane % 4 * 2;
                f(row, col, sum[i][j][0], sum[i][j][1]);
                f(row + 8, col, sum[i][j][2], sum[i][j][3]);
            }
    }
};

}  // namespace graft
