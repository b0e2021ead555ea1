/* The selective scan as one loop over time, state in cache, forward and backward.

   Compiled once for float and once for double: REAL is the number, NAME(f) the function's name.
   Channels are walked in blocks of W lanes, so that every inner loop has a fixed length and no
   branch, and the compiler turns it into vector instructions. Layouts, all contiguous:
   u, delta, y and their gradients (batch, tokens, channels); A (channels, states);
   B, C (batch, tokens, states); states at the start of each stretch of `keep` tokens
   (batch, stretches, blocks, states, W), which the backward pass starts again from.
   starts (batch, tokens): 1 where the state is emptied before the token; NULL for never. */

static void NAME(load)(REAL *to, const REAL *from, long n) {
  for (long i = 0; i < W; i++) to[i] = i < n ? from[i] : (REAL)0;
}

static void NAME(columns)(REAL *to, const REAL *A, long d, long width, long N) {
  for (long n = 0; n < N; n++)
    for (long i = 0; i < W; i++) to[n * W + i] = i < width ? A[(d + i) * N + n] : (REAL)0;
}

int NAME(forward)(const REAL *u, const REAL *delta, const REAL *A, const REAL *B, const REAL *C,
                  const REAL *initial, const unsigned char *starts, REAL *y, REAL *kept,
                  REAL *last, long batch, long L, long D, long N, long keep, long first,
                  long end) {
  REAL *work = malloc(2 * N * W * sizeof(REAL));
  if (!work) return 1;
  REAL *At = work, *h = work + N * W;
  long stretches = (L + keep - 1) / keep, blocks = (D + W - 1) / W;
  for (long b = 0; b < batch; b++)
    for (long block = first; block < end; block++) {
      long d = block * W, width = D - d < W ? D - d : W;
      NAME(columns)(At, A, d, width, N);
      NAME(columns)(h, initial + b * D * N, d, width, N);
      for (long t = 0; t < L; t++) {
        if (t % keep == 0)
          memcpy(kept + (((b * stretches + t / keep) * blocks) + block) * N * W, h,
                 N * W * sizeof(REAL));
        if (starts && starts[b * L + t]) memset(h, 0, N * W * sizeof(REAL));
        REAL dt[W], x[W], out[W] = {0};
        long at = (b * L + t) * D + d;
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
      for (long n = 0; n < N; n++)
        for (long i = 0; i < width; i++) last[(b * D + d + i) * N + n] = h[n * W + i];
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
  long size = N * W;
  REAL *work = malloc(((2 * keep + 1) * size + 4 * size) * sizeof(REAL));
  if (!work) return 1;
  REAL *At = work, *g = At + size, *dAt = g + size, *part = dAt + size, *a = part + size,
       *h = a + keep * size;
  long stretches = (L + keep - 1) / keep, blocks = (D + W - 1) / W;
  for (long b = 0; b < batch; b++)
    for (long block = first; block < end; block++) {
      long d = block * W, width = D - d < W ? D - d : W;
      NAME(columns)(At, A, d, width, N);
      NAME(columns)(g, dlast + b * D * N, d, width, N);
      memset(dAt, 0, size * sizeof(REAL));
      for (long s = stretches - 1; s >= 0; s--) {
        long from = s * keep, to = from + keep < L ? from + keep : L;
        REAL dt[W], x[W], xd[W], up[W];
        memcpy(h, kept + ((b * stretches + s) * blocks + block) * size, size * sizeof(REAL));
        for (long t = from; t < to; t++) {
          long at = (b * L + t) * D + d, k = t - from;
          int reset = starts && starts[b * L + t];
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
      for (long n = 0; n < N; n++)
        for (long i = 0; i < width; i++) {
          dA[(d + i) * N + n] += dAt[n * W + i];
          dinitial[(b * D + d + i) * N + n] = g[n * W + i];
        }
    }
  free(work);
  return 0;
}
