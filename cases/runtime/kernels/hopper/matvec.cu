// out[N] = weight[N][K] x[K] on tensor cores, and what stands around it: RMSNorm of x, SiLU(gate) * up, a residual.
//
// A lane reads 8 neighbouring values of a row, a warp 256, and x from the same places. mma.m16n8k16 multiplies 16 rows
// by 8 columns; its "row" g of the upper 8 is here the piece of one row of the weights that the lanes 4g to 4g+3 hold, of
// the lower 8 the same of another row, and its column g the piece of x of those lanes. So the diagonals hold what is
// wanted, each lane multiplies what it has loaded, and nothing is shuffled or widened to float32 first.
//
// A block has ROWS rows of the weights (GATED: half of them gates, half of them ups), in pairs, STAGES pairs in flight;
// its WARPS share the columns. Weights never change, so the first pairs and the norm's weight are read before the
// kernel ahead has ended (programmatic launch).

constexpr int SPAN = 256 * WARPS, PIECES = (K + SPAN - 1) / SPAN, PAIRS = ROWS / 2, OUTPUTS = GATED ? ROWS / 2 : ROWS;
constexpr int THREADS = 32 * WARPS, TURNS = (8 * OUTPUTS + THREADS - 1) / THREADS;
constexpr bool EVEN = K % SPAN == 0, WHOLE = N % OUTPUTS == 0;
struct Eight { u32 two[4]; };

__device__ __forceinline__ Eight read_weights(const u16* from) {
  Eight e;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(e.two[0]), "=r"(e.two[1]), "=r"(e.two[2]), "=r"(e.two[3])
               : "l"(from), "l"(READ_ONCE));
  return e;
}
__device__ __forceinline__ Eight read(const u16* from) {
  Eight e;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(e.two[0]), "=r"(e.two[1]), "=r"(e.two[2]), "=r"(e.two[3])
               : "l"(from)
               : "memory");
  return e;
}
#if BF16
#define KINDS "bf16.bf16"
#else
#define KINDS "f16.f16"
#endif
// The upper rows of `d` += the pairs `one` times x, the lower ones `other` times x.
__device__ __forceinline__ void multiply(float (&d)[4], u32 one_1, u32 other_1, u32 one_2, u32 other_2, u32 x_1, u32 x_2) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." KINDS ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(one_1), "r"(other_1), "r"(one_2), "r"(other_2), "r"(x_1), "r"(x_2));
}
// The sum over WIDTH neighbouring lanes, in each of them.
template <int WIDTH>
__device__ __forceinline__ float summed(float value) {
#pragma unroll
  for (int apart = WIDTH / 2; apart; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}
// x becomes RMSNorm(x): in float32, rounded once.
__device__ __forceinline__ void normalise(Eight (&x)[PIECES], const Eight (&gains)[NORM ? PIECES : 1], float* squares, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < PIECES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float low = low_of(x[i].two[j]), high = high_of(x[i].two[j]);
      sum += low * low + high * high;
    }
  sum = summed<32>(sum);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
  __syncthreads();
  float all = 0.0f;
#pragma unroll
  for (int i = 0; i < WARPS; i++) all += squares[i];
  const float scale = rsqrtf(all / K + eps);
#pragma unroll
  for (int i = 0; i < PIECES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const u32 x_two = x[i].two[j], gain = gains[NORM ? i : 0].two[j];
      x[i].two[j] = pack(low_of(x_two) * scale * low_of(gain), high_of(x_two) * scale * high_of(gain));
    }
}
// The row that this thread finishes in a turn, one of 8 neighbouring threads that do; or -1.
__device__ __forceinline__ int own_row(int turn, int first) {
  const int row = (turn * THREADS + threadIdx.x) / 8;
  return row < OUTPUTS && first + row < N ? row : -1;
}
// The rows' parts, 8 a warp, added up in one order and written, with what is `added` to each.
__device__ __forceinline__ void finish(const float (&parts)[ROWS][8 * WARPS + 4], int first, const float (&added)[TURNS], u16* out) {
  const int part = threadIdx.x % 8;
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    const int row = own_row(turn, first);
    float sum = 0.0f, up = 0.0f;
    if (row >= 0)
#pragma unroll
      for (int i = 0; i < WARPS; i++) {
        sum += parts[GATED ? 2 * row : row][8 * i + part];
        if constexpr (GATED) up += parts[2 * row + 1][8 * i + part];
      }
    sum = summed<8>(sum);
    if constexpr (GATED) sum = silu(sum) * summed<8>(up);
    if (row >= 0 && part == 0) out[first + row] = (u16)pack(sum + added[turn], 0.0f);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    matvec(const u16* __restrict__ weight, const u16* x, const u16* __restrict__ norm, const u16* residual, u16* out, float eps) {
  __shared__ float parts[ROWS][8 * WARPS + 4], squares[WARPS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, begin = 8 * threadIdx.x, first = blockIdx.x * OUTPUTS;
  auto there = [&](int i) { return EVEN || begin + i * SPAN < K; };
  const u16* const upper = weight + (u64)first * K + begin;
  const u16* const lower = upper + (GATED ? (u64)N * K : K);
  Eight one[STAGES][PIECES], other[STAGES][PIECES];
  auto load = [&](int pair, int stage) {
    const int row = GATED ? pair : 2 * pair;
    // Beyond the last row that one is read again.
    const int row_1 = WHOLE ? row : min(row, N - 1 - first), row_2 = WHOLE || GATED ? row_1 : min(row, N - 2 - first);
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      one[stage][i] = there(i) ? read_weights(upper + row_1 * K + i * SPAN) : Eight{};
      other[stage][i] = there(i) ? read_weights(lower + row_2 * K + i * SPAN) : Eight{};
    }
  };
#pragma unroll
  for (int stage = 0; stage < STAGES && stage < PAIRS; stage++) load(stage, stage);
  Eight gains[NORM ? PIECES : 1];
  if constexpr (NORM)
#pragma unroll
    for (int i = 0; i < PIECES; i++) gains[i] = there(i) ? read(norm + begin + i * SPAN) : Eight{};
  launch_next();
  wait_for_previous();
  float added[TURNS] = {};
  if constexpr (ADD)
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++)
      if (const int row = own_row(turn, first); row >= 0) added[turn] = low_of(residual[first + row]);
  Eight v[PIECES];
#pragma unroll
  for (int i = 0; i < PIECES; i++) v[i] = there(i) ? read(x + begin + i * SPAN) : Eight{};
  if constexpr (NORM) normalise(v, gains, squares, eps);
  const int group = lane / 4;
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    const int stage = pair % STAGES;
    float d[4] = {};
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const Eight &a = one[stage][i], &b = other[stage][i];
      multiply(d, a.two[0], b.two[0], a.two[1], b.two[1], v[i].two[0], v[i].two[1]);
      multiply(d, a.two[2], b.two[2], a.two[3], b.two[3], v[i].two[2], v[i].two[3]);
    }
    if (pair + STAGES < PAIRS) load(pair + STAGES, stage);
    if (lane % 4 == group / 2) {
      parts[2 * pair][8 * warp + group] = group % 2 ? d[1] : d[0];
      parts[2 * pair + 1][8 * warp + group] = group % 2 ? d[3] : d[2];
    }
  }
  __syncthreads();
  finish(parts, first, added, out);
}
