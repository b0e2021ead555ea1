/* The chosen experts, gated by SiLU: each thread has experts of its own, forward and backward.

   Compiled once for float and once for double: REAL is the number, NAME(f) the function's name.
   Matrix products are left to `gemm`, the Fortran routine of PyTorch's own library; within one
   thread it is at its best, where two threads on one product of a hundred rows wait for each
   other. A block's rows stay in the cache from the first product to the last.
   Layouts, all contiguous, rows first: x, out and their gradients (N, D); in_weight (E, 2F, D);
   down_weight (E, D, F); hidden (S, 2F), what the backward pass needs; scale (S,) the weights.
   tokens[row] is the token of a sorted row; blocks, (expert, start, end) each, of thread t are
   those from cuts[t] to cuts[t + 1]. others (threads - 1, N, D): the sums of all threads but the
   first, added at the end. rooms: what each thread works in. */

#ifndef EXPERTS_ONCE
#define EXPERTS_ONCE
typedef int (*threads_t)(int);
static int single(threads_t limit) { return limit ? limit(1) : 0; }
static void as_before(threads_t limit, int before) { if (limit) limit(before); }
#endif

typedef void (*NAME(gemm_t))(const char *, const char *, const int *, const int *, const int *,
                             const REAL *, const REAL *, const int *, const REAL *, const int *,
                             const REAL *, REAL *, const int *);

/* C (m, n) = A (m, k) B, or A (k, m) turned; B (k, n), or B (n, k) turned; `add` to what C holds.
   A row of C lies `ldc` numbers behind the one before. Fortran's matrices are turned to ours. */
static void NAME(product)(NAME(gemm_t) gemm, int turn_a, int turn_b, long m, long n, long k,
                          const REAL *A, const REAL *B, int add, REAL *C, long ldc) {
  int rows = m, columns = n, inner = k, lda = turn_a ? m : k, ldb = turn_b ? k : n, after = ldc;
  REAL one = 1, beta = add;
  gemm(turn_b ? "T" : "N", turn_a ? "T" : "N", &columns, &rows, &inner, &one, B, &ldb, A, &lda,
       &beta, C, &after);
}

static void NAME(gather)(REAL *to, const REAL *x, const int64_t *tokens, long n, long D) {
  for (long r = 0; r < n; r++) memcpy(to + r * D, x + tokens[r] * D, D * sizeof(REAL));
}

static void NAME(times)(REAL *rows, const REAL *scale, long n, long D) {
  for (long r = 0; r < n; r++)
    for (long j = 0; j < D; j++) rows[r * D + j] *= scale[r];
}

static void NAME(scatter)(REAL *sums, const REAL *rows, const int64_t *tokens, long n, long D) {
  for (long r = 0; r < n; r++)
#pragma omp simd
    for (long j = 0; j < D; j++) sums[tokens[r] * D + j] += rows[r * D + j];
}

static void NAME(join)(REAL *out, const REAL *others, long threads, long size) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < size; i++)
    for (long t = 1; t < threads; t++) out[i] += others[(t - 1) * size + i];
}

int NAME(forward)(const REAL *x, const int64_t *tokens, const REAL *scale,
                  const REAL *in_weight, const REAL *down_weight, REAL *hidden, REAL *out,
                  REAL *others, REAL *rooms, const int64_t *blocks, const int64_t *cuts,
                  long gemm_, long limit_, long threads, long N, long D, long F, long most,
                  long on_input) {
  NAME(gemm_t) gemm = (NAME(gemm_t))gemm_;
  threads_t limit = (threads_t)limit_;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long t = 0; t < threads; t++) {
    REAL *sums = t ? others + (t - 1) * N * D : out;
    REAL *given = rooms + t * most * (D + F + (hidden ? 0 : 2 * F));
    REAL *bent = given + most * D, *own = bent + most * F;
    int before = single(limit);
    memset(sums, 0, N * D * sizeof(REAL));
    for (long i = cuts[t]; i < cuts[t + 1]; i++) {
      long e = blocks[3 * i], start = blocks[3 * i + 1], n = blocks[3 * i + 2] - start;
      REAL *raw = hidden ? hidden + start * 2 * F : own;
      NAME(gather)(given, x, tokens + start, n, D);
      if (on_input) NAME(times)(given, scale + start, n, D);
      NAME(product)(gemm, 0, 1, n, 2 * F, D, given, in_weight + e * 2 * F * D, 0, raw, 2 * F);
      for (long r = 0; r < n; r++) {
        const REAL *gate = raw + r * 2 * F, *up = gate + F;
        REAL *to = bent + r * F;
#pragma omp simd
        for (long j = 0; j < F; j++)
          to[j] = gate[j] / (1 + NAME(exponential)(-gate[j])) * up[j];
      }
      NAME(product)(gemm, 0, 1, n, D, F, bent, down_weight + e * D * F, 0, given, D);
      if (!on_input) NAME(times)(given, scale + start, n, D);
      NAME(scatter)(sums, given, tokens + start, n, D);
    }
    as_before(limit, before);
  }
  NAME(join)(out, others, threads, N * D);
  return 0;
}

int NAME(backward)(const REAL *x, const int64_t *tokens, const REAL *scale,
                   const REAL *in_weight, const REAL *down_weight, const REAL *hidden,
                   const REAL *d_out, REAL *d_x, REAL *d_scale, REAL *d_in, REAL *d_down,
                   REAL *others, REAL *rooms, const int64_t *blocks, const int64_t *cuts,
                   long gemm_, long limit_, long threads, long N, long D, long F, long most,
                   long on_input) {
  NAME(gemm_t) gemm = (NAME(gemm_t))gemm_;
  threads_t limit = (threads_t)limit_;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long t = 0; t < threads; t++) {
    REAL *sums = t ? others + (t - 1) * N * D : d_x;
    REAL *given = rooms + t * most * (2 * D + 3 * F);
    REAL *d_answer = given + most * D, *bent = d_answer + most * D, *d_hidden = bent + most * F;
    int before = single(limit);
    memset(sums, 0, N * D * sizeof(REAL));
    for (long i = cuts[t]; i < cuts[t + 1]; i++) {
      long e = blocks[3 * i], start = blocks[3 * i + 1], n = blocks[3 * i + 2] - start;
      int further = i > cuts[t] && blocks[3 * i - 3] == e; /* a further block of one expert */
      const REAL *into = in_weight + e * 2 * F * D, *down = down_weight + e * D * F;
      NAME(gather)(given, x, tokens + start, n, D);
      NAME(gather)(d_answer, d_out, tokens + start, n, D);
      if (on_input) NAME(times)(given, scale + start, n, D);
      /* The gradient of what was bent stands where the gate's will, once it has been read. */
      NAME(product)(gemm, 0, 0, n, F, D, d_answer, down, 0, d_hidden, 2 * F);
      for (long r = 0; r < n; r++) {
        const REAL *gate = hidden + (start + r) * 2 * F, *up = gate + F;
        REAL *d_gate = d_hidden + r * 2 * F, *d_up = d_gate + F, *to = bent + r * F, sum = 0;
        REAL weight = on_input ? 1 : scale[start + r];
#pragma omp simd reduction(+ : sum)
        for (long j = 0; j < F; j++) {
          REAL open = 1 / (1 + NAME(exponential)(-gate[j])), silu = gate[j] * open;
          REAL d_bent = d_gate[j];
          to[j] = silu * up[j];
          d_up[j] = weight * d_bent * silu;
          d_gate[j] = weight * d_bent * up[j] * open * (1 + gate[j] - silu);
          sum += d_bent * to[j];
        }
        if (!on_input) d_scale[start + r] = sum; /* <dy, down(bent)> = <dy down, bent> */
      }
      if (!on_input) NAME(times)(d_answer, scale + start, n, D);
      NAME(product)(gemm, 1, 0, 2 * F, D, n, d_hidden, given, further, d_in + e * 2 * F * D, D);
      NAME(product)(gemm, 1, 0, D, F, n, d_answer, bent, further, d_down + e * D * F, F);
      NAME(product)(gemm, 0, 0, n, D, 2 * F, d_hidden, into, 0, d_answer, D);
      if (on_input) {
        NAME(gather)(given, x, tokens + start, n, D);
        for (long r = 0; r < n; r++) {
          REAL sum = 0;
#pragma omp simd reduction(+ : sum)
          for (long j = 0; j < D; j++) sum += given[r * D + j] * d_answer[r * D + j];
          d_scale[start + r] = sum;
        }
        NAME(times)(d_answer, scale + start, n, D);
      }
      NAME(scatter)(sums, d_answer, tokens + start, n, D);
    }
    as_before(limit, before);
  }
  NAME(join)(d_x, others, threads, N * D);
  return 0;
}
