// The running lists of nearest rows, beside matrix products of queries and rows. One query per block.

#define NEAREST_THREADS 256
#define NEAREST_LISTED 64
#define NO_ROW 0xffffffffu

// Whether (a, i) comes before (b, j): the smaller key, of equal keys the lower row. A NaN comes first, so that nobody takes the
// other rows for the nearest.
__device__ inline bool before(float a, u32 i, float b, u32 j) {
    bool a_nan = a != a, b_nan = b != b;
    if (a_nan || b_nan) {
        return a_nan && (!b_nan || i < j);
    }
    return a < b || (a == b && i < j);
}

struct Candidate {
    float key;
    u32 row;
};

// Half of each row's squared norm, which is its key for a query of zeros.
extern "C" __global__ void __launch_bounds__(NEAREST_THREADS) half_norms(const float *rows, float *norms, u32 d) {
    __shared__ float scratch[NEAREST_THREADS / 32];
    const float *row = rows + (u64)blockIdx.x * d;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
        sum += row[i] * row[i];
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        norms[blockIdx.x] = 0.5f * sum;
    }
}

// Joins rows first .. first + n, with products (queries, n), to the sorted lists (queries, k) of keys and rows. The key of a
// row is half its squared norm less its product with the query; `fresh` says that the lists are empty yet.
extern "C" __global__ void __launch_bounds__(NEAREST_THREADS) nearest(
    const float *products, const float *norms, float *keys, u32 *rows, u32 n, u32 first, u32 k, u32 fresh
) {
    // Each thread reads only what it wrote here.
    __shared__ float old_keys[NEAREST_LISTED];
    __shared__ u32 old_rows[NEAREST_LISTED];
    __shared__ float warp_keys[NEAREST_THREADS / 32];
    __shared__ u32 warp_rows[NEAREST_THREADS / 32];
    const float *product = products + (u64)blockIdx.x * n;
    float *list_keys = keys + (u64)blockIdx.x * k;
    u32 *list_rows = rows + (u64)blockIdx.x * k;
    for (u32 i = threadIdx.x; i < k; i += NEAREST_THREADS) {
        old_keys[i] = fresh ? FLOAT_INFINITY : list_keys[i];
        old_rows[i] = fresh ? NO_ROW : list_rows[i];
    }
    // What this thread looks after: old entries and columns with its number, in strides of the block. Each round takes the best
    // of all threads, and its owner looks for its next.
    Candidate mine = {FLOAT_INFINITY, NO_ROW};
    Candidate last = {-FLOAT_INFINITY, 0};
    bool look = true, started = false;
    for (u32 place = 0; place < k; place++) {
        if (look) {
            mine.key = FLOAT_INFINITY;
            mine.row = NO_ROW;
            for (u32 i = threadIdx.x; i < k; i += NEAREST_THREADS) {
                float key = old_keys[i];
                u32 row = old_rows[i];
                if ((!started || before(last.key, last.row, key, row)) && before(key, row, mine.key, mine.row)) {
                    mine.key = key;
                    mine.row = row;
                }
            }
            for (u32 i = threadIdx.x; i < n; i += NEAREST_THREADS) {
                float key = norms[first + i] - product[i];
                u32 row = first + i;
                if ((!started || before(last.key, last.row, key, row)) && before(key, row, mine.key, mine.row)) {
                    mine.key = key;
                    mine.row = row;
                }
            }
        }
        Candidate best = mine;
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1) {
            float key = __shfl_xor_sync(0xffffffffu, best.key, mask);
            u32 row = __shfl_xor_sync(0xffffffffu, best.row, mask);
            if (before(key, row, best.key, best.row)) {
                best.key = key;
                best.row = row;
            }
        }
        if (threadIdx.x % 32 == 0) {
            warp_keys[threadIdx.x / 32] = best.key;
            warp_rows[threadIdx.x / 32] = best.row;
        }
        __syncthreads();
        best.key = warp_keys[0];
        best.row = warp_rows[0];
        for (u32 i = 1; i < NEAREST_THREADS / 32; i++) {
            if (before(warp_keys[i], warp_rows[i], best.key, best.row)) {
                best.key = warp_keys[i];
                best.row = warp_rows[i];
            }
        }
        look = best.row != NO_ROW && best.row == mine.row;
        if (look) {
            last = best;
            started = true;
        }
        if (threadIdx.x == 0) {
            list_keys[place] = best.key;
            list_rows[place] = best.row;
        }
        __syncthreads();
    }
}
