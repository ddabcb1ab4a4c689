// Tensors of any layout: an element's place is the sum of its coordinates times strides.
#pragma once

#include "common.cuh"

namespace graft {

constexpr int MAX_DIMS = 6;

// Types of elements in memory.
enum Element : uint32_t { F16 = 0, F32 = 1, I32 = 2, I64 = 3, U8 = 4, I8 = 5, BOOL = 6 };

// A tensor that is read or written; strides in elements, 0 where it is repeated.
struct View {
    void* at;
    uint32_t element;
    int32_t strides[MAX_DIMS];
};

__device__ __forceinline__ float load_float(const View& view, int64_t place) {
    switch (view.element) {
        case F16: return __half2float(static_cast<const __half*>(view.at)[place]);
        case F32: return static_cast<const float*>(view.at)[place];
        case I32: return static_cast<float>(static_cast<const int32_t*>(view.at)[place]);
        case I64: return static_cast<float>(static_cast<const int64_t*>(view.at)[place]);
        case I8: return static_cast<float>(static_cast<const int8_t*>(view.at)[place]);
        default: return static_cast<float>(static_cast<const uint8_t*>(view.at)[place]);
    }
}

__device__ __forceinline__ int64_t load_integer(const View& view, int64_t place) {
    switch (view.element) {
        case F16: return static_cast<int64_t>(__half2float(static_cast<const __half*>(view.at)[place]));
        case F32: return static_cast<int64_t>(static_cast<const float*>(view.at)[place]);
        case I32: return static_cast<const int32_t*>(view.at)[place];
        case I64: return static_cast<const int64_t*>(view.at)[place];
        case I8: return static_cast<const int8_t*>(view.at)[place];
        default: return static_cast<const uint8_t*>(view.at)[place];
    }
}

__device__ __forceinline__ void store_float(const View& view, int64_t place, float value) {
    switch (view.element) {
        case F16: static_cast<__half*>(view.at)[place] = __float2half(value); break;
        case F32: static_cast<float*>(view.at)[place] = value; break;
        case I32: static_cast<int32_t*>(view.at)[place] = static_cast<int32_t>(value); break;
        case I64: static_cast<int64_t*>(view.at)[place] = static_cast<int64_t>(value); break;
        case I8: static_cast<int8_t*>(view.at)[place] = static_cast<int8_t>(static_cast<int32_t>(value)); break;
        case BOOL: static_cast<uint8_t*>(view.at)[place] = value != 0.0f; break;
        default: static_cast<uint8_t*>(view.at)[place] = static_cast<uint8_t>(static_cast<int32_t>(value)); break;
    }
}

__device__ __forceinline__ void store_integer(const View& view, int64_t place, int64_t value) {
    switch (view.element) {
        case F16: static_cast<__half*>(view.at)[place] = __float2half(static_cast<float>(value)); break;
        case F32: static_cast<float*>(view.at)[place] = static_cast<float>(value); break;
        case I32: static_cast<int32_t*>(view.at)[place] = static_cast<int32_t>(value); break;
        case I64: static_cast<int64_t*>(view.at)[place] = value; break;
        case BOOL: static_cast<uint8_t*>(view.at)[place] = value != 0; break;
        default: static_cast<uint8_t*>(view.at)[place] = static_cast<uint8_t>(value); break;
    }
}

}  // namespace graft
