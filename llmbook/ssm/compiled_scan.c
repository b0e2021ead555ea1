/* The selective scan as one loop over time, state in cache, forward and backward.

   Compiled once for float and once for double: REAL is the number, NAME(f) the function's name.
   Channels are walked in blocks of W lanes, so that every inner loop has a fixed length and no
   branch, and the compiler turns it into vector instructions. All blocks do one stretch of tokens
   before any begins the next: what they read lies together, and a long text costs no more a token
   than a short one. Layouts, all contiguous:
   u, delta, y and their gradients (batch, tokens, channels); A (channels, states);
   B, C (batch, tokens, states); states at the start of each stretch of `keep` tokens
   (batch, stretches, blocks, states, W), which the backward pass starts again from.
   starts (batch, tokens): 1 where the state is emptied before the token; NULL for never. */

static void NAME(load)(REAL *to, const REAL *from, long n) {
  for (long i = 0; i < W; i++) to[i] = i < n ? from[i] : (REAL)0;
}

/* Fetch the rows that are needed `ahead` tokens from here: a block's numbers lie a row of D apart,
   too far for the processor to foresee. */
static inline void NAME(fetch)(const REAL *row, long ahead) {
  const char *at = (const char *)(row + ahead);
  for (unsigned long i = 0; i < W * sizeof(REAL); i += 64) __builtin_prefetch(at + i);
}

static long NAME(width)(long D, long block) { return D - block * W < W ? D - block * W : W; }

static void NAME(columns)(REAL *to, const REAL *A, long d, long width, long N) {
  for (long n = 0; n < N; n++)
    for (long i = 0; i < W; i++) to[n * W + i] = i < width ? A[(d + i) * N + n] : (REAL)0;
}

int NAME(forward)(const REAL *u, const REAL *delta, const REAL *A, const REAL *B, const REAL *C,
                  const REAL *initial, const unsigned char *starts, REAL *y, REAL *kept,
                  REAL *last, long batch, long L, long D, long N, long keep, long first,
                  long end) {
  long size = N * W, mine = (end - first) * size;
  REAL *work = malloc((2 * mine + 1) * sizeof(REAL));
  if (!work) return 1;
  REAL *As = work, *hs = As + mine;
  long stretches = (L + keep - 1) / keep, blocks = (D + W - 1) / W;
  for (long block = first; block < end; block++)
    NAME(columns)(As + (block - first) * size, A, block * W, NAME(width)(D, block), N);
  for (long b = 0; b < batch; b++) {
    for (long block = first; block < end; block++)
      NAME(columns)(hs + (block - first) * size, initial + b * D * N, block * W,
                    NAME(width)(D, block), N);
    for (long s = 0; s < stretches; s++)
      for (long block = first; block < end; block++) {
        long d = block * W, width = NAME(width)(D, block);
        long from = s * keep, to = from + keep < L ? from + keep : L;
        REAL *h = hs + (block - first) * size;
        const REAL *At = As + (block - first) * size;
        memcpy(kept + ((b * stretches + s) * blocks + block) * size, h, size * sizeof(REAL));
        for (long t = from; t < to; t++) {
          if (starts && starts[b * L + t]) memset(h, 0, size * sizeof(REAL));
          REAL dt[W], x[W], out[W] = {0};
          long at = (b * L + t) * D + d;
          NAME(fetch)(u + at, keep * D);
          NAME(fetch)(delta + at, keep * D);
          NAME(load)(dt, delta + at, width);
          NAME(load)(x, u + at, width);
          for (long i = 0; i < W; i++) x[i] *= dt[i];
          const REAL *Bt = B + (b * L + t) * N, *Ct = C + (b * L + t) * N;
          for (long n = 0; n < N; n++) {
            REAL *restrict hn = h + n * W;
            const REAL *restrict an = At + n * W;
            REAL bn = Bt[n], cn = Ct[n];
            for (long i = 0; i < W; i++) {
              REAL now = NAME(exponential)(dt[i] * an[i]) * hn[i] + x[i] * bn;
              hn[i] = now;
              out[i] += now * cn;
            }
          }
          for (long i = 0; i < width; i++) y[at + i] = out[i];
        }
      }
    for (long block = first; block < end; block++)
      for (long n = 0; n < N; n++)
        for (long i = 0; i < NAME(width)(D, block); i++)
          last[(b * D + block * W + i) * N + n] = hs[(block - first) * size + n * W + i];
  }
  free(work);
  return 0;
}

/* Backwards over each stretch: run it again forward from its kept state, storing states and
   transitions, then walk back with g_t = C_t dy_t + a_(t+1) g_(t+1), the gradient of the state.
   skip (channels): its part of u's gradient is added; NULL for none. du may be dy, ddelta delta:
   a number is read for the last time just before it is written over. */
int NAME(backward)(const REAL *u, const REAL *delta, const REAL *A, const REAL *B, const REAL *C,
                   const REAL *skip, const unsigned char *starts, const REAL *kept,
                   const REAL *dy, const REAL *dlast, REAL *du, REAL *ddelta, REAL *dA, REAL *dB,
                   REAL *dC, REAL *dinitial, long batch, long L, long D, long N, long keep,
                   long first, long end) {
  long size = N * W, mine = (end - first) * size;
  REAL *work = malloc((3 * mine + (2 * keep + 2) * size) * sizeof(REAL));
  if (!work) return 1;
  REAL *As = work, *gs = As + mine, *dAs = gs + mine, *part = dAs + mine, *a = part + size,
       *h = a + keep * size;
  long stretches = (L + keep - 1) / keep, blocks = (D + W - 1) / W;
  for (long block = first; block < end; block++)
    NAME(columns)(As + (block - first) * size, A, block * W, NAME(width)(D, block), N);
  for (long b = 0; b < batch; b++) {
    for (long block = first; block < end; block++)
      NAME(columns)(gs + (block - first) * size, dlast + b * D * N, block * W,
                    NAME(width)(D, block), N);
    memset(dAs, 0, mine * sizeof(REAL));
    for (long s = stretches - 1; s >= 0; s--)
      for (long block = first; block < end; block++) {
        long d = block * W, width = NAME(width)(D, block);
        long from = s * keep, to = from + keep < L ? from + keep : L, own = (block - first) * size;
        REAL *At = As + own, *g = gs + own, *dAt = dAs + own;
        REAL dt[W], x[W], xd[W], up[W];
        memcpy(h, kept + ((b * stretches + s) * blocks + block) * size, size * sizeof(REAL));
        for (long t = from; t < to; t++) {
          long at = (b * L + t) * D + d, k = t - from;
          int reset = starts && starts[b * L + t];
          NAME(fetch)(dy + at, 0);
          NAME(fetch)(du + at, 0);
          NAME(fetch)(ddelta + at, 0);
          NAME(load)(dt, delta + at, width);
          NAME(load)(x, u + at, width);
          for (long i = 0; i < W; i++) x[i] *= dt[i];
          const REAL *Bt = B + (b * L + t) * N;
          REAL open = reset ? 0 : 1;
          for (long n = 0; n < N; n++) {
            const REAL *restrict was = h + k * size + n * W;
            REAL *restrict now = h + (k + 1) * size + n * W, *restrict ak = a + k * size + n * W;
            const REAL *restrict an = At + n * W;
            REAL bn = Bt[n];
            for (long i = 0; i < W; i++) {
              ak[i] = open * NAME(exponential)(dt[i] * an[i]);
              now[i] = ak[i] * was[i] + x[i] * bn;
            }
          }
        }
        memset(part, 0, size * sizeof(REAL));
        for (long t = to - 1; t >= from; t--) {
          long at = (b * L + t) * D + d, k = t - from;
          NAME(load)(dt, delta + at, width);
          NAME(load)(x, u + at, width);
          NAME(load)(up, dy + at, width);
          NAME(fetch)(u + at, -keep * D);
          NAME(fetch)(delta + at, -keep * D);
          REAL into[W] = {0}, rate[W] = {0};
          for (long i = 0; i < W; i++) xd[i] = x[i] * dt[i];
          const REAL *Bt = B + (b * L + t) * N, *Ct = C + (b * L + t) * N;
          REAL *dBt = dB + (b * L + t) * N, *dCt = dC + (b * L + t) * N;
          for (long n = 0; n < N; n++) {
            REAL *restrict gn = g + n * W, *restrict pn = part + n * W;
            const REAL *restrict was = h + k * size + n * W, *restrict now = was + size;
            const REAL *restrict ak = a + k * size + n * W, *restrict an = At + n * W;
            REAL bn = Bt[n], cn = Ct[n], sumB = 0, sumC = 0;
#pragma omp simd reduction(+ : sumB, sumC)
            for (long i = 0; i < W; i++) {
              REAL gradient = gn[i] + up[i] * cn;
              sumB += gradient * xd[i];
              sumC += up[i] * now[i];
              into[i] += gradient * bn;
              REAL back = gradient * ak[i], m = back * was[i];
              rate[i] += m * an[i];
              pn[i] += m * dt[i];
              gn[i] = back;
            }
            dBt[n] += sumB;
            dCt[n] += sumC;
          }
          for (long i = 0; i < width; i++) {
            du[at + i] = into[i] * dt[i] + (skip ? up[i] * skip[d + i] : 0);
            ddelta[at + i] = into[i] * x[i] + rate[i];
          }
        }
        for (long i = 0; i < size; i++) dAt[i] += part[i];
      }
    for (long block = first; block < end; block++)
      for (long n = 0; n < N; n++)
        for (long i = 0; i < NAME(width)(D, block); i++) {
          long from = (block - first) * size + n * W + i, d = block * W + i;
          dA[d * N + n] += dAs[from];
          dinitial[(b * D + d) * N + n] = gs[from];
        }
  }
  free(work);
  return 0;
}
