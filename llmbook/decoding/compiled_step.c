/* One token through a decoder: the short step (step.py) without PyTorch between its products.

   Rows b of a batch, each one token; or, `together`, rows that are successive tokens of one text.
   Threads share a batch by its rows, each with its own working memory. Weights are float32, or
   whole numbers with scales that are multiplied as they are read: a step takes as long as its
   weights take to come from memory. Everything is contiguous. The structures are mirrored in
   compiled.py, field by field. */

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 8
typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef int8_t B __attribute__((vector_size(LANES)));

typedef struct {
  const void *weight; /* (out, in): float, int8, or two numbers of 4 bits to a byte */
  const float *scale; /* (out) in 8 bits, (out, in / group) in 4; NULL for float */
  const float *bias;  /* (out) or NULL */
  int64_t in, out, bits, group;
} Linear;

typedef struct {
  const float *weight, *bias;
  int64_t centred; /* 1: LayerNorm; 0: root mean square */
  double eps;
} Norm;

typedef struct {
  Norm norm1, norm2;
  Linear qkv, project, gate, up, down; /* gate.weight NULL: no gate */
  float *keys, *values;                /* (rows, groups, room, head_dim) */
  int64_t activation;
  double scale;
} Layer;

typedef struct {
  int64_t room, width, heads, groups, head_dim, inner, n_layers;
  const float *tokens, *positions; /* (vocabulary, width), (places, width) or NULL */
  const float *cosine, *sine;      /* (places, head_dim), or NULL: no rotation */
  const float *bias;               /* (rows, room): -inf at padding, or NULL */
  const int64_t *hidden;           /* (rows): places that are padding, or NULL */
  Norm norm;
  Linear head;
  const Layer *layers;
} Model;

static inline V at(const float *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

static inline V at_bytes(const int8_t *p) {
#ifdef __AVX2__ /* which gcc does not find by itself */
  return (V)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
  B b;
  memcpy(&b, p, sizeof b);
  return __builtin_convertvector(__builtin_convertvector(b, I), V);
#endif
}

static inline float total(V v) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

static float dot(const float *a, const float *b, int64_t n) {
  V sum = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) sum += at(a + i) * at(b + i);
  float rest = total(sum);
  for (; i < n; i++) rest += a[i] * b[i];
  return rest;
}

/* Four rows of W by one x, one behind the other as they lie in memory, each in four sums: a
   product waits for the one four before it. Side by side, the four were read at 0.7 of the rate. */
#define FOUR_ROWS(NAME, TYPE, READ)                                                   \
  static void NAME(const TYPE *w[4], const float *x, int64_t n, float y[4]) {         \
    for (int r = 0; r < 4; r++) {                                                     \
      V a[4] = {{0}};                                                                 \
      int64_t i = 0;                                                                  \
      for (; i + 4 * LANES <= n; i += 4 * LANES)                                      \
        for (int k = 0; k < 4; k++)                                                   \
          a[k] += READ(w[r] + i + k * LANES) * at(x + i + k * LANES);                 \
      y[r] = total((a[0] + a[1]) + (a[2] + a[3]));                                    \
      for (; i < n; i++) y[r] += w[r][i] * x[i];                                      \
    }                                                                                 \
  }
FOUR_ROWS(four_of_floats, float, at)
FOUR_ROWS(four_of_bytes, int8_t, at_bytes)

/* One row of 4-bit numbers, stored plus 8, each group with its scale. */
static float row_of_halves(const uint8_t *w, const float *scale, const float *x, int64_t n,
                           int64_t group) {
  float sum = 0;
#ifdef __AVX2__
  if (group % 16 == 0 && n % group == 0) { /* eight bytes: the even numbers and the odd ones */
    for (int64_t first = 0, g = 0; first < n; first += group, g++) {
      V part = {0};
      for (int64_t i = first; i < first + group; i += 16) {
        __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(w + i / 2)));
        V low = (V)_mm256_cvtepi32_ps(_mm256_and_si256(both, _mm256_set1_epi32(15)));
        V high = (V)_mm256_cvtepi32_ps(_mm256_srli_epi32(both, 4));
        __m256 a = (__m256)at(x + i), b = (__m256)at(x + i + LANES);
        const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
        V even = (V)_mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0x88), order);
        V odd = (V)_mm256_permutevar8x32_ps(_mm256_shuffle_ps(a, b, 0xdd), order);
        part += (low - 8) * even + (high - 8) * odd;
      }
      sum += total(part) * scale[g];
    }
    return sum;
  }
#endif
  for (int64_t first = 0, g = 0; first < n; first += group, g++) {
    int64_t end = first + group < n ? first + group : n;
    float part = 0;
    for (int64_t i = first; i < end; i++) {
      int q = (w[i / 2] >> (i % 2 ? 4 : 0)) & 15;
      part += (q - 8) * x[i];
    }
    sum += part * scale[g];
  }
  return sum;
}

/* Many rows: SIDE of them lie side by side in a vector, so that a sum is never one over lanes. */
#define SIDE 16
#ifdef __AVX512F__
#define OUTS 8 /* sums at a time: as many as stay in registers */
#else
#define OUTS 4
#endif
typedef float S __attribute__((vector_size(4 * SIDE)));

static void linear_many(const Linear *f, const float *x, float *y, int64_t rows, float *turned) {
  int64_t n = f->in, out = f->out;
  const float *weight = f->weight;
  memset(turned + rows / SIDE * SIDE * n, 0, rows % SIDE ? SIDE * n * sizeof(float) : 0);
  for (int64_t b = 0; b < rows; b++) /* (rows / SIDE, in, SIDE) */
    for (int64_t k = 0; k < n; k++) turned[(b / SIDE * n + k) * SIDE + b % SIDE] = x[b * n + k];
  for (int64_t o = 0; o < out; o += OUTS) {
    int64_t many = out - o < OUTS ? out - o : OUTS;
    const float *w[OUTS];
    for (int r = 0; r < OUTS; r++) w[r] = weight + (o + (r < many ? r : 0)) * n;
    const float *ahead = weight + (o + OUTS < out ? o + OUTS : o) * n; /* the next OUTS rows */
    for (int64_t b = 0; b < rows; b += SIDE) {
      const float *t = turned + b * n;
      S sum[OUTS] = {{0}};
      for (int64_t k = 0; k < n; k++) {
        S side;
        memcpy(&side, t + k * SIDE, sizeof side);
        __builtin_prefetch(ahead + k * OUTS);
        for (int r = 0; r < OUTS; r++) sum[r] += w[r][k] * side;
      }
      float *to = y + b * out + o;
      for (int64_t i = 0; i < SIDE && b + i < rows; i++, to += out)
        for (int r = 0; r < many; r++) to[r] = sum[r][i] + (f->bias ? f->bias[o + r] : 0);
    }
  }
}

/* y (rows, out) = x (rows, in) W^T + b: four rows of W serve every row of x while they are near;
   with `turned`, room for x, and float weights as for many rows. */
static void linear(const Linear *f, const float *x, float *y, int64_t rows, float *turned) {
  int64_t n = f->in, out = f->out, groups = f->bits == 4 ? (n + f->group - 1) / f->group : 1;
  if (turned && f->bits == 32) {
    linear_many(f, x, y, rows, turned);
    return;
  }
  for (int64_t o = 0; o < out; o += 4) {
    int64_t many = out - o < 4 ? out - o : 4;
    for (int64_t b = 0; b < rows; b++) {
      float four[4];
      const float *xb = x + b * n;
      if (f->bits == 32) {
        const float *w[4];
        for (int r = 0; r < 4; r++) w[r] = (const float *)f->weight + (o + (r < many ? r : 0)) * n;
        four_of_floats(w, xb, n, four);
      } else if (f->bits == 8) {
        const int8_t *w[4];
        for (int r = 0; r < 4; r++) w[r] = (const int8_t *)f->weight + (o + (r < many ? r : 0)) * n;
        four_of_bytes(w, xb, n, four);
        for (int r = 0; r < many; r++) four[r] *= f->scale[o + r];
      } else {
        for (int r = 0; r < many; r++)
          four[r] = row_of_halves((const uint8_t *)f->weight + (o + r) * ((n + 1) / 2),
                                  f->scale + (o + r) * groups, xb, n, f->group);
      }
      for (int r = 0; r < many; r++) y[b * out + o + r] = four[r] + (f->bias ? f->bias[o + r] : 0);
    }
  }
}

static void norm(const Norm *f, const float *x, float *y, int64_t rows, int64_t n) {
  for (int64_t b = 0; b < rows; b++, x += n, y += n) {
    float mean = 0;
    if (f->centred) {
      for (int64_t i = 0; i < n; i++) mean += x[i];
      mean /= n;
    }
    for (int64_t i = 0; i < n; i++) y[i] = x[i] - mean;
    float root = 1 / sqrtf(dot(y, y, n) / n + (float)f->eps);
    for (int64_t i = 0; i < n; i++)
      y[i] = y[i] * root * f->weight[i] + (f->bias ? f->bias[i] : 0);
  }
}

static void activate(int64_t kind, float *x, int64_t n) {
  if (kind == 0)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] : 0;
  if (kind == 1)
    for (int64_t i = 0; i < n; i++) x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
  if (kind == 2) /* 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)) */
    for (int64_t i = 0; i < n; i++) {
      float u = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
      x[i] = x[i] / (1 + exponential_float(-2 * u));
    }
  if (kind == 3)
    for (int64_t i = 0; i < n; i++) x[i] = x[i] / (1 + exponential_float(-x[i]));
}

/* x cos + roll(x) sin: the half layout of rotary positions, head after head. */
static void turn(const Model *m, float *x, int64_t heads, int64_t place) {
  int64_t d = m->head_dim, half = d / 2;
  const float *c = m->cosine + place * d, *s = m->sine + place * d;
  for (int64_t h = 0; h < heads; h++, x += d)
    for (int64_t i = 0; i < half; i++) {
      float a = x[i], b = x[i + half];
      x[i] = a * c[i] + b * s[i];
      x[i + half] = b * c[i + half] + a * s[i + half];
    }
}

/* One row's attention over n + 1 tokens of a text: q (heads, d) -> out (heads, d). */
static void attend(const Model *m, const Layer *l, const float *q, int64_t row, int64_t n,
                   float *out, float *p) {
  int64_t d = m->head_dim, group = m->heads / m->groups;
  const float *bias = m->bias ? m->bias + row * m->room : NULL;
  for (int64_t h = 0; h < m->heads; h++, q += d, out += d) {
    int64_t first = ((row * m->groups + h / group) * m->room) * d;
    const float *k = l->keys + first, *v = l->values + first;
    float most = -INFINITY, sum = 0;
    for (int64_t t = 0; t <= n; t++) {
      for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(v + t * d + i);
      p[t] = dot(q, k + t * d, d) * (float)l->scale + (bias ? bias[t] : 0);
      most = p[t] > most ? p[t] : most;
    }
    for (int64_t t = 0; t <= n; t++) p[t] = exponential_float(p[t] - most);
    for (int64_t t = 0; t <= n; t++) sum += p[t];
    memset(out, 0, d * sizeof(float));
    for (int64_t t = 0; t <= n; t++) {
      float share = p[t] / sum;
      for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(k + (m->room + t) * d + i);
      for (int64_t i = 0; i < d; i++) out[i] += share * v[t * d + i];
    }
  }
}

static void add(float *x, const float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

/* tokens (rows), of the caches' rows from `first` on, behind n that are held -> logits (rows,
   vocabulary); the caches grow. work, turned: working memory; turned is NULL for few rows. */
void step(const Model *m, const int64_t *tokens, int64_t first, int64_t rows, int64_t n,
          int64_t together, float *work, float *turned, float *logits) {
  int64_t width = m->width, d = m->head_dim, all = rows * width;
  int64_t packed = (m->heads + 2 * m->groups) * d;
  float *x = work, *y = x + all, *qkv = y + all, *mixed = qkv + rows * packed;
  float *up = mixed + rows * m->heads * d, *gate = up + rows * m->inner;
  float *scores = gate + rows * m->inner;
#define TEXT(b) (together ? 0 : first + (b)) /* whose cache */
#define HELD(b) (together ? n + (b) : n)     /* how many tokens are before it there */
#define PLACE(b) (HELD(b) - (m->hidden ? m->hidden[TEXT(b)] : 0))
  for (int64_t b = 0; b < rows; b++) {
    memcpy(x + b * width, m->tokens + tokens[b] * width, width * sizeof(float));
    if (m->positions) add(x + b * width, m->positions + PLACE(b) * width, width);
  }
  for (const Layer *l = m->layers; l < m->layers + m->n_layers; l++) {
    norm(&l->norm1, x, y, rows, width);
    linear(&l->qkv, y, qkv, rows, turned);
    for (int64_t b = 0; b < rows; b++) {
      float *q = qkv + b * packed, *k = q + m->heads * d, *v = k + m->groups * d;
      if (m->cosine) turn(m, q, m->heads + m->groups, PLACE(b));
      for (int64_t g = 0; g < m->groups; g++) {
        int64_t to = ((TEXT(b) * m->groups + g) * m->room + HELD(b)) * d;
        memcpy(l->keys + to, k + g * d, d * sizeof(float));
        memcpy(l->values + to, v + g * d, d * sizeof(float));
      }
    }
    for (int64_t b = 0; b < rows; b++)
      attend(m, l, qkv + b * packed, TEXT(b), HELD(b), mixed + b * m->heads * d, scores);
    linear(&l->project, mixed, y, rows, turned);
    add(x, y, all);
    norm(&l->norm2, x, y, rows, width);
    linear(&l->up, y, up, rows, turned);
    if (l->gate.weight) {
      linear(&l->gate, y, gate, rows, turned);
      activate(l->activation, gate, rows * m->inner);
      for (int64_t i = 0; i < rows * m->inner; i++) up[i] *= gate[i];
    } else
      activate(l->activation, up, rows * m->inner);
    linear(&l->down, up, y, rows, turned);
    add(x, y, all);
  }
  norm(&m->norm, x, y, rows, width);
  linear(&m->head, y, logits, rows, turned);
}
