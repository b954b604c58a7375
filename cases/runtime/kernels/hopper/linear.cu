// Y[token][feature] = sum over k of X[token][k] W[feature][k], tokens on the narrow side of the tensor cores' tile.
//
// A tile is USED rows of W (GROUPS warpgroups of TALL times 64 compute; rows beyond USED are computed and dropped) and
// TOKENS tokens. W and X come through STAGES stages of shared memory, DEPTH times 64 columns each. EPILOGUE: 0 writes,
// 1 adds to what is there, 2 takes rows in turns of 8 gate and 8 up and writes SiLU(gate) * up, 3 takes rows in turns
// of 8 from both halves of a head, writes queries and keys rotated, keys and values to the cache. A pair of blocks
// (cluster) may share its weights (SHARE 1), or the sum over k, half each (SPLIT 2). A block computes one tile, or
// (LASTING 1) tiles in turns, and loads the next one's while it writes the last one's results.
// W never changes, so its first stages are loaded before the kernel ahead has finished (programmatic launch).

extern "C" __global__ void __launch_bounds__(CONSUMERS + LOADERS, 1)
    linear(const __grid_constant__ Map weights, const __grid_constant__ Map tokens, const __grid_constant__ Problem p) {
  extern __shared__ unsigned char raw[];
  __shared__ u64 full[STAGES], empty[STAGES];
  const u32 base = (shared_address(raw) + 1023) & ~1023u, first_full = shared_address(full), first_empty = shared_address(empty);
  // The blocks of a pair are neighbours in x.
  const u32 rank = CLUSTER ? cluster_rank() : 0;
  const int split = SPLIT == 2 ? rank : 0;
  const int begin = split * p.k_blocks / SPLIT, steps = (split + 1) * p.k_blocks / SPLIT - begin;
  // The tiles of tokens that read the same weights come one after another.
  const int across = LASTING ? (p.count + TOKENS - 1) / TOKENS : 1;
  const int first = LASTING ? blockIdx.x : 0, tiles = LASTING ? across * ((p.features + FEATURES - 1) / FEATURES) : 1;
  auto row_tile = [&](int tile) { return LASTING ? tile / across : int(blockIdx.y); };
  auto token_tile = [&](int tile) { return LASTING ? tile % across : int(blockIdx.x) / SPLIT; };
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(first_full + 8 * s, 1);
      barrier_init(first_empty + 8 * s, 4 * GROUPS * (SHARE ? 2 : 1));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if constexpr (SHARE) cluster_sync(); else __syncthreads();
  launch_next();

  auto load_weights = [&](int tile, int step, int s) {
    const int row = row_tile(tile) * USED + (SHARE ? rank * (USED / 2) : 0);
    barrier_expect(first_full + 8 * s, STAGE_BYTES);
#pragma unroll
    for (int sub = 0; sub < DEPTH; sub++) {
      const int k = (begin + step) * K_BLOCK + 64 * sub;
      const u32 to = base + (SHARE ? rank * (USED * 64) : 0) + s * STAGE_BYTES + sub * (USED * 128);
      if constexpr (EPILOGUE == 2) load_4d<SHARE>(to, &weights, first_full + 8 * s, k, row / 16, READ_ONCE);
      else if constexpr (EPILOGUE == 3)
#pragma unroll
        for (int ahead = 0; ahead < OWN; ahead += BOX) {
          const int turn = (row + ahead) / 16;
          load_5d<SHARE>(to + 128 * ahead, &weights, first_full + 8 * s, k, turn % HEAD_TURNS, turn / HEAD_TURNS, READ_ONCE);
        }
      else load_2d<SHARE>(to, &weights, first_full + 8 * s, k, row, READ_ONCE);
    }
  };
  auto load_tokens = [&](int tile, int step, int s) {
#pragma unroll
    for (int sub = 0; sub < DEPTH; sub++) {
      const u32 to = base + WEIGHT_BYTES + s * STAGE_BYTES + sub * (TOKENS * 128);
      load_2d<false>(to, &tokens, first_full + 8 * s, (begin + step) * K_BLOCK + 64 * sub, token_tile(tile) * TOKENS, READ_OFTEN);
    }
  };
  auto load_first = [&] {
    const int ahead = min(STAGES, steps);
    for (int i = 0; i < ahead; i++) load_weights(first, i, i);
    wait_for_previous();
    for (int i = 0; i < ahead; i++) load_tokens(first, i, i);
  };
  auto load_again = [&](int tile, int step, int s, u32 parity) {
    barrier_wait(first_empty + 8 * s, parity);
    load_weights(tile, step, s);
    load_tokens(tile, step, s);
  };

  if (threadIdx.x >= CONSUMERS) {
    if constexpr (LENT) registers_down<FEWER>();
    if (threadIdx.x == CONSUMERS) {
      load_first();
      int s = steps % STAGES;
      u32 parity = 1;  // a tile of fewer steps than stages leaves stages that were never filled
      if (steps >= STAGES) s = 0, parity = 0;
      for (int tile = first, i = min(STAGES, steps); tile < tiles; tile += gridDim.x, i = 0)
        for (; i < steps; i++) {
          load_again(tile, i, s, parity);
          if (++s == STAGES) s = 0, parity ^= 1;
        }
    }
    __syncwarp();
    if constexpr (SPLIT == 2) cluster_sync(), cluster_sync();  // those of the sum over k
    if constexpr (SHARE) cluster_sync();
    return;
  }

  if constexpr (LENT) registers_up<MORE>();
  float d[TALL][TOKENS / 2];
  const u64 a = descriptor(base + (threadIdx.x / 128) * (TALL * 8192)), b = descriptor(base + WEIGHT_BYTES);
  auto release = [&](int s) {
    if (threadIdx.x % 32 == 0) {
      if constexpr (SHARE) barrier_arrive_at(first_empty + 8 * s, 0), barrier_arrive_at(first_empty + 8 * s, 1);
      else barrier_arrive(first_empty + 8 * s);
    }
  };
  if (LOADERS == 0 && threadIdx.x == 0) load_first();
  __syncwarp();
  int position = 0;
  Angles angles;
  auto read_first_angles = [&] {
    const int token_0 = token_tile(first) * TOKENS;
    read_angles(angles, p, 0, position + token_0, min(TOKENS, p.count - token_0), row_tile(first) * FEATURES);
  };
  if constexpr (EPILOGUE == 3) {
    wait_for_previous();
    position = read_position(p.cache);
    if constexpr (EARLY) read_first_angles();
  }
  int s = 0, last = 0;
  u32 parity = 0, last_parity = 0;
#pragma unroll 1
  for (int tile = first; tile < tiles; tile += gridDim.x) {
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
      barrier_wait(first_full + 8 * s, parity);
      group_arrive();
      const u64 offset = (u64)(s * (STAGE_BYTES >> 4));
#pragma unroll
      for (int k = 0; k < 4 * DEPTH; k++)
#pragma unroll
        for (int part = 0; part < TALL; part++)
          multiply(d[part], a + offset + (k / 4) * (USED * 8) + 2 * (k % 4) + part * 512,
                   b + offset + (k / 4) * (TOKENS * 8) + 2 * (k % 4), (i | k) != 0);
      group_commit();
      if (i > 0) {
        group_wait<1>();
        release(last);
        if (LOADERS == 0 && threadIdx.x == 0 && i - 1 + STAGES < steps) load_again(tile, i - 1 + STAGES, last, last_parity);
        __syncwarp();
      }
      last = s, last_parity = parity;
      if (++s == STAGES) s = 0, parity ^= 1;
    }
    __syncwarp();
    group_wait<0>();
    wait_for_previous();

    const int token_0 = token_tile(tile) * TOKENS, feature_0 = row_tile(tile) * FEATURES;
    // Results pass through the stage that was read last; the loading thread fills the others meanwhile.
    const u32 stage = LASTING ? base + last * STAGE_BYTES : base;
    if constexpr (SPLIT == 2) {
      add_halves(d, base, rank, p, token_0, feature_0);
    } else if constexpr (EPILOGUE == 1) {
      const int count = min(TOKENS, p.count - token_0);
      uint4 r[TURNS];
      read_residual(r, p, token_0, count, feature_0);
      consumers_sync();
      stage_float<0, OCTETS>(d, stage);
      consumers_sync();
      write_sum(r, stage, p, token_0, count, feature_0);
    } else {
      consumers_sync();
      stage_half(d, stage);
      if constexpr (EPILOGUE == 3 && !EARLY) read_first_angles();
      consumers_sync();
      if constexpr (EPILOGUE == 3) write_rotated(angles, stage, p, position, token_0, feature_0);
      else write_half(stage, p, token_0, feature_0);
    }
    if constexpr (EPILOGUE == 3) break;  // no loop, or the compiler lifts the writing's addresses out of it, into registers
    if constexpr (LASTING) {
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      release(last);
    }
  }
  if constexpr (SHARE) {
    __syncwarp();
    cluster_sync();  // no block leaves while the other may still signal to it
  }
}
