/* A state that is a matrix, as one loop over time: Mamba-2's scan and the delta rule.

       S <- a_t S;   w_t = b_t (v_t - c S k_t);   S <- S + w_t k_t^T;   o_t = S q_t

   c = `correct` is 1 for the delta rule and 0 for Mamba-2's scan, where b is NULL for ones.
   Layouts, all contiguous: q, k (batch, tokens, groups, K), a head reads its group's; v, o (batch,
   tokens, heads, V); a, b (batch, tokens, heads); states (batch, heads, V, K). Values are walked in
   blocks of W lanes, and a block's state is held as K rows of W. States at the start of each
   stretch of `keep` tokens (batch, heads, stretches, blocks, K, W) are what the backward pass
   starts again from. A unit is one head of one sequence: first <= unit < end are done. */

/* W numbers are two vectors. Sums over a vector's numbers are taken as a tree of halves: written
   as a loop, C would have each addition wait for the one before. */
typedef REAL NAME(vec) __attribute__((vector_size(W / 2 * sizeof(REAL))));
typedef NAME(vec) NAME(row) __attribute__((may_alias, aligned(sizeof(REAL))));
typedef REAL NAME(half) __attribute__((vector_size(W / 4 * sizeof(REAL))));
typedef REAL NAME(quarter) __attribute__((vector_size(W / 8 * sizeof(REAL))));

static inline REAL NAME(sum)(NAME(vec) x) {
  union {
    NAME(vec) whole;
    NAME(half) part[2];
  } a = {x};
  union {
    NAME(half) whole;
    NAME(quarter) part[2];
  } b = {a.part[0] + a.part[1]};
  NAME(quarter) c = b.part[0] + b.part[1];
  return (c[0] + c[1]) + (c[2] + c[3]);
}

static void NAME(load)(REAL *to, const REAL *from, long n) {
  for (long i = 0; i < W; i++) to[i] = i < n ? from[i] : (REAL)0;
}

static void NAME(columns)(REAL *to, const REAL *state, long width, long K) {
  for (long n = 0; n < K; n++)
    for (long i = 0; i < W; i++) to[n * W + i] = i < width ? state[i * K + n] : (REAL)0;
}

/* what is to be written before b_t weighs it: v_t - c a_t S k_t */
static void NAME(rest)(REAL *restrict r, const REAL *v, long width, const REAL *restrict S,
                       const REAL *k, REAL a, long K, long correct) {
  NAME(load)(r, v, width);
  if (!correct) return;
  NAME(vec) held0 = {0}, held1 = {0};
  for (long n = 0; n < K; n++) {
    const NAME(row) *Sn = (const NAME(row) *)(S + n * W);
    held0 += k[n] * Sn[0], held1 += k[n] * Sn[1];
  }
  NAME(row) *rest = (NAME(row) *)r;
  rest[0] -= a * held0, rest[1] -= a * held1;
}

int NAME(forward)(const REAL *q, const REAL *k, const REAL *v, const REAL *beta,
                         const REAL *alpha, const REAL *initial, REAL *o, REAL *kept, REAL *last,
                         long batch, long L, long H, long G, long K, long V, long keep,
                         long correct, long first, long end) {
  long size = K * W, stretches = (L + keep - 1) / keep, blocks = (V + W - 1) / W;
  REAL *S = malloc(size * sizeof(REAL));
  if (!S) return 1;
  for (long unit = first; unit < end; unit++)
    for (long block = 0; block < blocks; block++) {
      long b = unit / H, h = unit % H, g = h / (H / G), d = block * W;
      long width = V - d < W ? V - d : W;
      NAME(columns)(S, initial + (unit * V + d) * K, width, K);
      for (long t = 0; t < L; t++) {
        if (t % keep == 0)
          memcpy(kept + ((unit * stretches + t / keep) * blocks + block) * size, S,
                 size * sizeof(REAL));
        long at = (b * L + t) * H + h;
        const REAL *qt = q + ((b * L + t) * G + g) * K, *kt = k + ((b * L + t) * G + g) * K;
        REAL a = alpha[at], w[W], out[W] = {0};
        NAME(rest)(w, v + at * V + d, width, S, kt, a, K, correct);
        if (beta)
          for (long i = 0; i < W; i++) w[i] *= beta[at];
        for (long n = 0; n < K; n++) {
          REAL *restrict Sn = S + n * W;
          REAL kn = kt[n], qn = qt[n];
          for (long i = 0; i < W; i++) {
            REAL now = a * Sn[i] + kn * w[i];
            Sn[i] = now;
            out[i] += qn * now;
          }
        }
        for (long i = 0; i < width; i++) o[at * V + d + i] = out[i];
      }
      for (long n = 0; n < K; n++)
        for (long i = 0; i < width; i++) last[(unit * V + d + i) * K + n] = S[n * W + i];
    }
  free(S);
  return 0;
}

/* Backwards over each stretch: run it again forward from its kept state, storing states and what
   was written, then walk back. With G the gradient of S_t, and S~ = a S_(t-1):
       dw = G k,  dv = b dw,  db = dw . (v - c S~ k),  dq = S_t^T do,  e = -c b dw
       dk = G^T w + S~^T e,   G~ = G + e k^T,   dlog a = sum of G~ o S~,   then G of t-1 is a G~ */
int NAME(backward)(const REAL *q, const REAL *k, const REAL *v, const REAL *beta,
                          const REAL *alpha, const REAL *kept, const REAL *dout,
                          const REAL *dlast, REAL *dq, REAL *dk, REAL *dv, REAL *dbeta,
                          REAL *dlog, REAL *dinitial, long batch, long L, long H, long G, long K,
                          long V, long keep, long correct, long first, long end) {
  long size = K * W, stretches = (L + keep - 1) / keep, blocks = (V + W - 1) / W;
  REAL *work = malloc(((keep + 2) * size + keep * W) * sizeof(REAL));
  if (!work) return 1;
  REAL *grad = work, *states = work + size, *rests = work + (keep + 2) * size;
  for (long unit = first; unit < end; unit++)
    for (long block = 0; block < blocks; block++) {
      long b = unit / H, h = unit % H, g = h / (H / G), d = block * W;
      long width = V - d < W ? V - d : W;
      NAME(columns)(grad, dlast + (unit * V + d) * K, width, K);
      for (long s = stretches - 1; s >= 0; s--) {
        long from = s * keep, to = from + keep < L ? from + keep : L;
        memcpy(states, kept + ((unit * stretches + s) * blocks + block) * size,
               size * sizeof(REAL));
        for (long t = from; t < to; t++) {
          long at = (b * L + t) * H + h;
          const REAL *kt = k + ((b * L + t) * G + g) * K;
          const REAL *restrict was = states + (t - from) * size;
          REAL *restrict now = states + (t - from + 1) * size, *r = rests + (t - from) * W;
          REAL a = alpha[at], bt = beta ? beta[at] : (REAL)1, w[W];
          NAME(rest)(r, v + at * V + d, width, was, kt, a, K, correct);
          for (long i = 0; i < W; i++) w[i] = bt * r[i];
          for (long n = 0; n < K; n++)
            for (long i = 0; i < W; i++) now[n * W + i] = a * was[n * W + i] + kt[n] * w[i];
        }
        for (long t = to - 1; t >= from; t--) {
          long at = (b * L + t) * H + h, at_key = ((b * L + t) * G + g) * K;
          const REAL *qt = q + at_key, *kt = k + at_key, *r = rests + (t - from) * W;
          REAL a = alpha[at], bt = beta ? beta[at] : (REAL)1;
          REAL given[W];
          NAME(load)(given, dout + at * V + d, width);
          const NAME(row) *rest = (const NAME(row) *)r, *dot = (const NAME(row) *)given;
          NAME(vec) up[2] = {dot[0], dot[1]}, w[2] = {bt * rest[0], bt * rest[1]};
          NAME(vec) dw[2] = {0}, rate[2] = {0};
          for (long n = 0; n < K; n++) {
            NAME(row) *Gn = (NAME(row) *)(grad + n * W);
            const NAME(row) *was = (const NAME(row) *)(states + (t - from) * size + n * W);
            const NAME(row) *now = was + 2 * K;
            REAL qn = qt[n], kn = kt[n];
            NAME(vec) g0 = Gn[0] + qn * up[0], g1 = Gn[1] + qn * up[1];
            dq[at_key + n] += NAME(sum)(now[0] * up[0] + now[1] * up[1]);
            dk[at_key + n] += NAME(sum)(g0 * w[0] + g1 * w[1]);
            dw[0] += g0 * kn, dw[1] += g1 * kn;
            rate[0] += g0 * was[0], rate[1] += g1 * was[1];
            Gn[0] = a * g0, Gn[1] = a * g1;
          }
          if (correct) {
            NAME(vec) held[2] = {0}, e[2] = {-a * bt * dw[0], -a * bt * dw[1]};
            for (long n = 0; n < K; n++) {
              NAME(row) *Gn = (NAME(row) *)(grad + n * W);
              const NAME(row) *was = (const NAME(row) *)(states + (t - from) * size + n * W);
              REAL kn = kt[n];
              dk[at_key + n] += NAME(sum)(was[0] * e[0] + was[1] * e[1]);
              held[0] += kn * was[0], held[1] += kn * was[1];
              Gn[0] += kn * e[0], Gn[1] += kn * e[1];
            }
            /* S_(t-1)^T e, by k: what is missing in rate, a factor a apart */
            for (long j = 0; j < 2; j++) rate[j] -= bt * dw[j] * held[j];
          }
          for (long i = 0; i < width; i++)
            dv[at * V + d + i] = bt * dw[i / (W / 2)][i % (W / 2)];
          if (beta) dbeta[at] += NAME(sum)(dw[0] * rest[0] + dw[1] * rest[1]);
          /* where nothing came through: not 0 times infinity */
          dlog[at] += a == 0 ? 0 : a * NAME(sum)(rate[0] + rate[1]);
        }
      }
      for (long n = 0; n < K; n++)
        for (long i = 0; i < width; i++)
          dinitial[(unit * V + d + i) * K + n] = grad[n * W + i];
    }
  free(work);
  return 0;
}
