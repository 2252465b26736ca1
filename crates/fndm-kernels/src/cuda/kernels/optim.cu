// Adam and moving averages, all tensors in one launch.
//
// Blocks take OPTIM_CHUNK values each. Tensor t has the blocks first[t] to first[t + 1].

#define OPTIM_THREADS 256
#define OPTIM_CHUNK 4096

// The tensor of this block.
__device__ inline u32 tensor_of(const u32 *first, u32 tensors) {
    u32 low = 0, high = tensors;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (first[middle] <= blockIdx.x) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// `table` has for each tensor: parameter, first moment, second moment, gradient.
extern "C" __global__ void __launch_bounds__(OPTIM_THREADS) adam(
    float *const *table, const u32 *lengths, const u32 *first, u32 tensors, float beta1, float keep1, float beta2,
    float keep2, float shrink, float rate, float root, float eps, float scale
) {
    u32 t = tensor_of(first, tensors);
    float *p = table[4 * t], *m = table[4 * t + 1], *v = table[4 * t + 2];
    const float *g = table[4 * t + 3];
    u32 start = (blockIdx.x - first[t]) * OPTIM_CHUNK;
    u32 end = min(lengths[t], start + OPTIM_CHUNK);
    for (u32 i = start + threadIdx.x; i < end; i += OPTIM_THREADS) {
        float gradient = scale * g[i];
        float m1 = beta1 * m[i] + keep1 * gradient;
        float v1 = beta2 * v[i] + keep2 * gradient * gradient;
        m[i] = m1;
        v[i] = v1;
        p[i] = shrink * p[i] - rate * m1 / (sqrtf(v1) * root + eps);
    }
}

// `table` has for each tensor: average, parameter.
extern "C" __global__ void __launch_bounds__(OPTIM_THREADS)
    ema(float *const *table, const u32 *lengths, const u32 *first, u32 tensors, float rest) {
    u32 t = tensor_of(first, tensors);
    float *average = table[2 * t];
    const float *p = table[2 * t + 1];
    u32 start = (blockIdx.x - first[t]) * OPTIM_CHUNK;
    u32 end = min(lengths[t], start + OPTIM_CHUNK);
    for (u32 i = start + threadIdx.x; i < end; i += OPTIM_THREADS) {
        // An average of equal values stays exactly that value.
        average[i] += rest * (p[i] - average[i]);
    }
}
