// Y[token][feature] = sum over k of X[token][k] W[feature][k], tokens on the narrow side of the tensor cores' tile.
//
// A block owns USED rows of W (GROUPS warpgroups of 64 each compute; rows beyond USED are computed and dropped) and
// TOKENS tokens. W and X come through STAGES stages of shared memory, DEPTH times 64 columns each. EPILOGUE: 0 writes,
// 1 adds to what is there, 2 takes rows in turns of 8 gate and 8 up and writes SiLU(gate) * up. A pair of blocks
// (cluster) may share its weights (SHARE 1), or the sum over k, half each (SPLIT 2).
// W never changes, so its first stages are loaded before the kernel ahead has finished (programmatic launch).

extern "C" __global__ void __launch_bounds__(CONSUMERS + PRODUCERS, 1)
    linear(const __grid_constant__ Map weights, const __grid_constant__ Map tokens, const __grid_constant__ Problem p) {
  extern __shared__ unsigned char raw[];
  __shared__ u64 full[STAGES], empty[STAGES];
  const u32 base = (shared_address(raw) + 1023) & ~1023u, first_full = shared_address(full), first_empty = shared_address(empty);
  // The blocks of a pair are neighbours in x.
  const u32 rank = CLUSTER ? cluster_rank() : 0;
  const int row_tile = SHARE ? blockIdx.y : blockIdx.x / SPLIT, token_tile = SHARE ? blockIdx.x : blockIdx.y;
  const int split = SPLIT == 2 ? rank : 0;
  const int begin = split * p.k_blocks / SPLIT, steps = (split + 1) * p.k_blocks / SPLIT - begin;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(first_full + 8 * s, 1);
      barrier_init(first_empty + 8 * s, 4 * GROUPS * (SHARE ? 2 : 1));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if constexpr (CLUSTER) cluster_sync(); else __syncthreads();
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");

  const int row = row_tile * USED + (SHARE ? rank * (USED / 2) : 0);
  const int token = token_tile * TOKENS;
  const u32 weight_at = base + (SHARE ? rank * (USED * 64) : 0);
  const u32 token_at = base + WEIGHT_BYTES;
  auto load_weights = [&](int step, int s) {
    barrier_expect(first_full + 8 * s, STAGE_BYTES);
#pragma unroll
    for (int sub = 0; sub < DEPTH; sub++) {
      const int k = (begin + step) * K_BLOCK + 64 * sub;
      const u32 to = weight_at + s * STAGE_BYTES + sub * (USED * 128);
      if constexpr (EPILOGUE == 2) load_4d<SHARE>(to, &weights, first_full + 8 * s, k, row / 16, READ_ONCE);
      else load_2d<SHARE>(to, &weights, first_full + 8 * s, k, row, READ_ONCE);
    }
  };
  auto load_tokens = [&](int step, int s) {
#pragma unroll
    for (int sub = 0; sub < DEPTH; sub++) {
      const int k = (begin + step) * K_BLOCK + 64 * sub;
      load_2d<false>(token_at + s * STAGE_BYTES + sub * (TOKENS * 128), &tokens, first_full + 8 * s, k, token, READ_OFTEN);
    }
  };
  auto load_first = [&] {
    const int ahead = min(STAGES, steps);
    for (int i = 0; i < ahead; i++) load_weights(i, i);
    wait_for_previous();
    for (int i = 0; i < ahead; i++) load_tokens(i, i);
  };
  auto load_again = [&](int step, int s, u32 parity) {
    barrier_wait(first_empty + 8 * s, parity);
    load_weights(step, s);
    load_tokens(step, s);
  };
  float d[TOKENS / 2];
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x == CONSUMERS) {
      load_first();
      int s = 0;
      u32 parity = 0;
      for (int i = STAGES; i < steps; i++) {
        load_again(i, s, parity);
        if (++s == STAGES) s = 0, parity ^= 1;
      }
    }
  } else {
    if (WIDE && threadIdx.x == 0) load_first();
    __syncwarp();
    const u64 a = descriptor(base + (threadIdx.x / 128) * 8192), b = descriptor(base + WEIGHT_BYTES);
    int s = 0, last = 0;
    u32 parity = 0, last_parity = 0;
    for (int i = 0; i < steps; i++) {
      barrier_wait(first_full + 8 * s, parity);
      group_arrive();
      const u64 offset = (u64)(s * (STAGE_BYTES >> 4));
#pragma unroll
      for (int k = 0; k < 4 * DEPTH; k++)
        multiply(d, a + offset + (k / 4) * (USED * 8) + 2 * (k % 4), b + offset + (k / 4) * (TOKENS * 8) + 2 * (k % 4), (i | k) != 0);
      group_commit();
      if (i > 0) {
        group_wait<1>();
        if (threadIdx.x % 32 == 0) {
          if constexpr (SHARE) barrier_arrive_at(first_empty + 8 * last, 0), barrier_arrive_at(first_empty + 8 * last, 1);
          else barrier_arrive(first_empty + 8 * last);
        }
        if (WIDE && threadIdx.x == 0 && i - 1 + STAGES < steps) load_again(i - 1 + STAGES, last, last_parity);
        __syncwarp();
      }
      last = s, last_parity = parity;
      if (++s == STAGES) s = 0, parity ^= 1;
    }
    __syncwarp();
    group_wait<0>();
    wait_for_previous();
  }
  __syncwarp();

  const bool consumer = threadIdx.x < CONSUMERS;
  const int token_0 = token_tile * TOKENS, feature_0 = row_tile * FEATURES;
  if constexpr (SPLIT == 2) {
    constexpr u32 PART = 8 * FIRST * FLOAT_PITCH * 4;
    cluster_sync();  // both have read all of their stages
    const int begin_token = token_0 + (rank ? 8 * FIRST : 0);
    const int tokens = min(rank ? TOKENS - 8 * FIRST : 8 * FIRST, p.count - begin_token);
    uint4 r[TURNS];
    if (consumer) {
      const u32 other = there(base + PART, rank ^ 1);
      if (rank == 0) stage_float<FIRST, OCTETS, true>(d, other), stage_float<0, FIRST, false>(d, base);
      else stage_float<0, FIRST, true>(d, other), stage_float<FIRST, OCTETS, false>(d, base);
      read_residual(r, p, begin_token, tokens, feature_0);
    }
    cluster_sync();
    if (consumer) write_sum(r, base, base + PART, p, begin_token, tokens, feature_0);
  } else if (consumer) {
    const int tokens = min(TOKENS, p.count - token_0);
    consumers_sync();
    if constexpr (EPILOGUE == 1) {
      uint4 r[TURNS];
      stage_float<0, OCTETS, false>(d, base);
      read_residual(r, p, token_0, tokens, feature_0);
      consumers_sync();
      write_sum(r, base, 0, p, token_0, tokens, feature_0);
    } else {
      stage_half(d, base);
      consumers_sync();
      write_half(base, p, token_0, feature_0);
    }
  }
  if constexpr (SHARE) {
    __syncwarp();
    cluster_sync();  // no block leaves while the other may still signal to it
  }
}
