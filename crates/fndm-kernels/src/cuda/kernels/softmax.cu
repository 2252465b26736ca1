// Softmax over rows, forward and backward: what is between the matrix products of attention. One row per block.

// y may lie where x does, if it has its type.
template <class T> __device__ inline void softmax(const float *x, T *y, u32 n) {
    __shared__ float scratch[32];
    const float *row = x + (u64)blockIdx.x * n;
    T *out = y + (u64)blockIdx.x * n;
    // A NaN isn't in the maximum, but in the sum; an infinite maximum makes one of itself.
    float top = -FLOAT_INFINITY;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        top = fmaxf(top, row[i]);
    }
    top = block_max(top, scratch);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        sum += __expf(row[i] - top);
    }
    float scale = 1.0f / block_sum(sum, scratch);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = narrow<T>(__expf(row[i] - top) * scale);
    }
}

// dx = y (dy - sum(dy y)); dx may lie where dy or y does, if it has its type.
template <class T> __device__ inline void softmax_grad(const T *y, const float *dy, T *dx, u32 n) {
    __shared__ float scratch[32];
    u64 base = (u64)blockIdx.x * n;
    float dot = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        dot += wide(y[base + i]) * dy[base + i];
    }
    dot = block_sum(dot, scratch);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        dx[base + i] = narrow<T>(wide(y[base + i]) * (dy[base + i] - dot));
    }
}

#define SOFTMAX_KERNELS(T, NAME)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) softmax_##NAME(const float *x, T *y, u32 n) {                    \
        softmax<T>(x, y, n);                                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        softmax_grad_##NAME(const T *y, const float *dy, T *dx, u32 n) {                                               \
        softmax_grad<T>(y, dy, dx, n);                                                                                 \
    }

SOFTMAX_KERNELS(float, f32)
SOFTMAX_KERNELS(bf16, bf16)
