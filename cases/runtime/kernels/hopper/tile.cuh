// What follows from a tile's constants.
constexpr int GROUPS = ROWS / (64 * TALL);
constexpr int CONSUMERS = 128 * GROUPS;
// LOADERS threads load: a warp; a warpgroup, most of whose registers go to the others; none, a consumer's thread does.
constexpr bool LENT = LOADERS == 128;
constexpr int FEWER = 40, MORE = GROUPS == 2 ? 232 : 152;  // registers a thread
constexpr int K_BLOCK = 64 * DEPTH;
constexpr int WEIGHT_BYTES = USED * 128 * DEPTH;  // DEPTH sub-tiles of 64 columns a stage
constexpr int TOKEN_BYTES = TOKENS * 128 * DEPTH;
constexpr int STAGE_BYTES = WEIGHT_BYTES + TOKEN_BYTES;
constexpr bool CLUSTER = SHARE || SPLIT == 2;
constexpr int FEATURES = EPILOGUE == 2 ? USED / 2 : USED;
constexpr int HALF_PITCH = 8 * ((FEATURES / 8) | 1);
constexpr int FLOAT_PITCH = FEATURES + 4;
constexpr int OCTETS = TOKENS / 8;
constexpr int OWN = SHARE ? USED / 2 : USED;  // rows of weights that a block loads itself, BOX of them at a time
constexpr int HEAD_TURNS = EPILOGUE == 3 ? HEAD / 16 : 1;  // turns of 16 rows that make a head
constexpr int FIRST = SPLIT == 2 ? (OCTETS + 1) / 2 : OCTETS;  // groups of 8 tokens that block 0 of a pair finishes
