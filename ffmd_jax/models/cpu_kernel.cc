// The product over neighbours on CPUs, forwards and backwards: for atom i, path p, channel u, component m
//
//     out[i, m, u] = sum_j w_p[u](r_ij) sum_a T_p[a, m](r_ij) x[j, a, u]
//
// with T the spherical harmonics of the edge coupled by 3j symbols, and w a uniform cubic B-spline of the distance, or
// its first or second derivative (order), of which derivatives of the product are made.
// T of an atom's neighbours is made once, weights and products exist in registers only, one vector of channels at a
// time: the step costs what its multiplications cost.  cpu_kernel.py compiles this file for the machine it runs on and
// says what the arrays are.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using I = std::int64_t;

namespace {

constexpr int kBytes = 64;  // of a vector; compilers split it where registers are smaller
#ifdef __AVX512F__
constexpr int kUnroll = 2;  // vectors at a time: they share the loads of T
#else
constexpr int kUnroll = 1;
#endif

template <class F>
struct Vector {
  typedef F type __attribute__((vector_size(kBytes)));
};
template <class F>
using Vec = typename Vector<F>::type;
template <class F>
constexpr int kWidth = kBytes / sizeof(F);

template <class F>
inline Vec<F> load(const F* from) {
  Vec<F> v;
  std::memcpy(&v, from, kBytes);
  return v;
}

template <class F>
inline void store(F* to, Vec<F> v) {
  std::memcpy(to, &v, kBytes);
}

template <class F>
inline void add(F* to, Vec<F> v) {
  store(to, load(to) + v);
}

template <class F>
inline F sum(Vec<F> v) {
  F total = 0;
  for (int i = 0; i < kWidth<F>; i++) total += v[i];
  return total;
}

// Runs body(0) … body(n - 1), on the threads of XLA's pool and on this one.
void parallel(ffi::ThreadPool& pool, I n, const std::function<void(I)>& body) {
  struct Shared {
    std::atomic<I> next{0}, done{0};
  };
  auto shared = std::make_shared<Shared>();
  // A helper that starts after all is done finds nothing to take, and does not touch the body.
  std::function<void()> work = [shared, n, &body] {
    for (I i; (i = shared->next++) < n; shared->done++) body(i);
  };
  for (I helpers = std::min<I>(pool.num_threads(), n) - 1; helpers > 0; helpers--) pool.Schedule(std::function<void()>(work));
  work();
  while (shared->done < n) std::this_thread::yield();
}

// Index of an operand that vmap gave leading axes of size 1 or of the batch's size.
struct Lead {
  std::vector<I> full, own;
  I operator()(I batch) const {
    I index = 0, stride = 1;
    for (int axis = (int)full.size() - 1; axis >= 0; axis--) {
      I place = batch % full[axis];
      batch /= full[axis];
      if (own[axis] > 1) index += place * stride;
      stride *= own[axis];
    }
    return index;
  }
};

// One path: where its inputs, tensor and outputs are.
struct Path {
  I row, d1, d3, tensor, output, slot;
};

// Arrays of one call; `Buffer` knows shapes, this knows what they mean.
template <class F>
struct Problem {
  I batches = 1, atoms, rows, neighbors, components, channels, harmonics, knots, n_tensor, order;
  const F *features, *y, *place, *table;
  const std::int32_t* senders;
  const bool* mask;
  Lead lead[6];  // features, senders, mask, harmonics, place, table
  ffi::Span<const I> paths;
  ffi::Span<const I> coupling;  // (element of T, spherical harmonic) of every 3j symbol
  ffi::Span<const double> symbols;
  std::vector<F> dense;     // the same as a matrix [harmonics, n_tensor], columns in whole vectors: T is a small product
  std::vector<I> from, to;  // of each vector of its columns: the rows that are not zero lie in between

  I n_paths() const { return paths.size() / 6; }
  Path path(I p) const {
    const I* d = paths.begin() + 6 * p;
    return {d[0], d[1], d[2], d[3], d[4], d[5]};
  }
  const F* features_of(I b) const { return features + lead[0](b) * rows * components * channels; }
  const F* table_of(I b) const { return table + lead[5](b) * n_paths() * knots * channels; }
};

// T of one edge from its spherical harmonics.
template <class F>
void couple(const Problem<F>& p, const F* y, F* out) {
  for (I block = 0; block < (I)p.from.size(); block++) {
    const I e = block * kWidth<F>;
    Vec<F> total = {};
    for (I h = p.from[block]; h < p.to[block]; h++) total += load(&p.dense[h * p.n_tensor + e]) * y[h];
    store(out + e, total);
  }
}

// The derivative of some order of the four B-splines that count at t = 1 - u of an interval.
template <class F>
inline void b_splines(I order, F t, F* to) {
  const F u = 1 - t;
  const F values[4][4] = {
      {u * u * u / 6, ((3 * t - 6) * t * t + 4) / 6, ((3 * u - 6) * u * u + 4) / 6, t * t * t / 6},
      {-u * u / 2, (F(1.5) * t - 2) * t, (2 - F(1.5) * u) * u, t * t / 2},
      {u, 3 * t - 2, 3 * u - 2, t},
      {F(-1), F(3), F(-3), F(1)}};
  std::copy(values[order], values[order] + 4, to);
}

// The real neighbours of one atom.
template <class F>
struct Edges {
  std::vector<I> sender, column, knot;
  std::vector<F> spline, slope;  // 4 B-splines and their derivatives, per edge
  std::vector<F> tensor;         // T of all kinds of coupling, per edge
  I size = 0;

  void fill(const Problem<F>& p, I b, I atom, bool slopes) {
    const I n = p.neighbors, first = atom * n;
    const std::int32_t* senders = p.senders + p.lead[1](b) * p.atoms * n + first;
    const bool* mask = p.mask + p.lead[2](b) * p.atoms * n + first;
    const F* y = p.y + (p.lead[3](b) * p.atoms * n + first) * p.harmonics;
    const F* place = p.place + p.lead[4](b) * p.atoms * n + first;
    for (auto* v : {&sender, &column, &knot}) v->resize(n);
    spline.resize(4 * n);
    slope.resize(4 * n);
    tensor.resize(n * p.n_tensor);
    size = 0;
    for (I j = 0; j < n; j++) {
      if (!mask[j]) continue;
      sender[size] = senders[j];
      column[size] = j;
      // A place that is no number stays one in t; the index made of it could be anywhere.
      knot[size] = place[j] > 0 ? (I)std::min(place[j], F(p.knots - 4)) : 0;
      const F t = place[j] - knot[size];
      b_splines(p.order, t, &spline[4 * size]);
      if (slopes) b_splines(p.order + 1, t, &slope[4 * size]);
      couple(p, y + j * p.harmonics, &tensor[size * p.n_tensor]);
      size++;
    }
  }
};

template <class F>
inline Vec<F> interpolate(const F* table, I channels, const F* spline) {
  Vec<F> w = load(table) * spline[0];
  for (int i = 1; i < 4; i++) w += load(table + i * channels) * spline[i];
  return w;
}

// One path of one atom, `V` vectors of channels from `u` on.
template <class F, int D1, int D3, int V>
struct Forward {
  static void run(const Problem<F>& p, const Edges<F>& edges, const Path& path, const F* features, const F* table, I u,
                  F* out, I stride) {
    Vec<F> total[D3][V] = {};
    for (I j = 0; j < edges.size; j++) {
      const F* x = features + (edges.sender[j] * p.components + path.row) * p.channels + u;
      const F* t = &edges.tensor[j * p.n_tensor + path.tensor];
      const F* knots = table + edges.knot[j] * p.channels + u;
      Vec<F> w[V];
      for (int v = 0; v < V; v++) w[v] = interpolate(knots + v * kWidth<F>, p.channels, &edges.spline[4 * j]);
      if constexpr (D1 <= D3) {
        for (int a = 0; a < D1; a++)
          for (int v = 0; v < V; v++) {
            const Vec<F> weighted = w[v] * load(x + a * p.channels + v * kWidth<F>);
            for (int m = 0; m < D3; m++) total[m][v] += weighted * t[a * D3 + m];
          }
      } else {  // weighs the fewer numbers
        Vec<F> coupled[D3][V] = {};
        for (int a = 0; a < D1; a++)
          for (int v = 0; v < V; v++) {
            const Vec<F> row = load(x + a * p.channels + v * kWidth<F>);
            for (int m = 0; m < D3; m++) coupled[m][v] += row * t[a * D3 + m];
          }
        for (int m = 0; m < D3; m++)
          for (int v = 0; v < V; v++) total[m][v] += w[v] * coupled[m][v];
      }
    }
    for (int m = 0; m < D3; m++)
      for (int v = 0; v < V; v++) store(out + m * stride + v * kWidth<F>, total[m][v]);
  }
};

// Where gradients go; those of T and place are vectors of partial sums, and null where not wanted.
template <class F>
struct Gradients {
  F *features, *table, *tensor, *place;
};

// As `Forward`, from the gradient of `out`.
template <class F, int D1, int D3, int V>
struct Backward {
  static void run(const Problem<F>& p, const Edges<F>& edges, const Path& path, const F* features, const F* table, I u,
                  const F* gradient, I stride, const Gradients<F>& to, F* to_table) {
    Vec<F> g[D3][V];
    for (int m = 0; m < D3; m++)
      for (int v = 0; v < V; v++) g[m][v] = load(gradient + m * stride + v * kWidth<F>);
    for (I j = 0; j < edges.size; j++) {
      const I row = (edges.sender[j] * p.components + path.row) * p.channels + u;
      const I tensor = j * p.n_tensor + path.tensor, knots = edges.knot[j] * p.channels + u;
      const F* t = &edges.tensor[tensor];
      const F* spline = &edges.spline[4 * j];
      Vec<F> w[V], to_w[V] = {};
      for (int v = 0; v < V; v++) w[v] = interpolate(table + knots + v * kWidth<F>, p.channels, spline);
      for (int a = 0; a < D1; a++)
        for (int v = 0; v < V; v++) {
          const I place = row + a * p.channels + v * kWidth<F>;
          const Vec<F> x = load(features + place);
          Vec<F> back = g[0][v] * t[a * D3];
          for (int m = 1; m < D3; m++) back += g[m][v] * t[a * D3 + m];
          to_w[v] += x * back;
          add(to.features + place, w[v] * back);
          if (to.tensor)
            for (int m = 0; m < D3; m++) add(to.tensor + (tensor + a * D3 + m) * kWidth<F>, w[v] * x * g[m][v]);
        }
      for (int v = 0; v < V; v++) {
        for (int i = 0; i < 4; i++) add(to_table + knots + i * p.channels + v * kWidth<F>, to_w[v] * spline[i]);
        if (to.place)
          add(to.place + j * kWidth<F>,
              to_w[v] * interpolate(table + knots + v * kWidth<F>, p.channels, &edges.slope[4 * j]));
      }
    }
  }
};

// Kernel<F, d1, d3, V>::run(arguments…) for dimensions known at run time only; false beyond l = 3.
template <template <class, int, int, int> class Kernel, class F, int V, class... Arguments>
bool dispatch(const Path& path, Arguments&&... arguments) {
  switch (10 * path.d1 + path.d3) {
#define CASE(a, b)                                  \
  case 10 * a + b:                                  \
    Kernel<F, a, b, V>::run(arguments...);          \
    return true;
#define ROW(a) CASE(a, 1) CASE(a, 3) CASE(a, 5) CASE(a, 7)
    ROW(1) ROW(3) ROW(5) ROW(7)
#undef ROW
#undef CASE
  }
  return false;
}

// All channels of a path, in the widest steps that fit.
template <template <class, int, int, int> class Kernel, class F, class Run>
void over_channels(I channels, Run run) {
  I u = 0;
  for (; u + kUnroll * kWidth<F> <= channels; u += kUnroll * kWidth<F>) run(u, std::integral_constant<int, kUnroll>());
  for (; u < channels; u += kWidth<F>) run(u, std::integral_constant<int, 1>());
}

// Arrays [..., n_atoms, d3, n_slots · channels] of the output irreps.
template <class F>
struct Outputs {
  std::vector<F*> data;
  std::vector<I> dims, strides;
  std::vector<Lead> leads;  // gradients that are zero have no batch of their own
  F* at(const Path& path, I b, I i, const Problem<F>& p) const {
    const I k = path.output;
    return data[k] + (leads[k](b) * p.atoms + i) * dims[k] * strides[k] + path.slot * p.channels;
  }
};

template <class F, class Buffer>
void append(Outputs<F>& outputs, Buffer&& buffer, const Problem<F>& p) {
  auto shape = buffer.dimensions();
  outputs.data.push_back(const_cast<F*>(buffer.typed_data()));
  outputs.dims.push_back(shape[shape.size() - 2]);
  outputs.strides.push_back(shape[shape.size() - 1]);
  outputs.leads.push_back({p.lead[0].full, std::vector<I>(shape.begin(), shape.end() - 3)});
}

template <ffi::DataType D>
ffi::ErrorOr<Problem<ffi::NativeType<D>>> problem(ffi::RemainingArgs args, ffi::Span<const I> paths,
                                                  ffi::Span<const I> coupling, ffi::Span<const double> symbols,
                                                  I n_tensor, I order) {
  using F = ffi::NativeType<D>;
  Problem<F> p;
  p.order = order;
  auto features = args.get<ffi::Buffer<D>>(0), y = args.get<ffi::Buffer<D>>(3), place = args.get<ffi::Buffer<D>>(4),
       table = args.get<ffi::Buffer<D>>(5);
  auto senders = args.get<ffi::Buffer<ffi::S32>>(1);
  auto mask = args.get<ffi::Buffer<ffi::PRED>>(2);
  if (!features || !y || !place || !table || !senders || !mask)
    return ffi::Unexpected(ffi::Error::InvalidArgument("edge convolution: wrong types"));
  const ffi::Span<const I> shapes[6] = {features->dimensions(), senders->dimensions(), mask->dimensions(),
                                        y->dimensions(),        place->dimensions(),   table->dimensions()};
  const int own[6] = {3, 2, 2, 3, 2, 3};
  const std::size_t n_lead = shapes[0].size() - own[0];
  std::vector<I> full(n_lead, 1);
  auto widen = [&](ffi::Span<const I> shape) {
    for (std::size_t axis = 0; axis < n_lead; axis++) full[axis] = std::max(full[axis], shape[axis]);
  };
  for (int k = 0; k < 6; k++) widen(shapes[k]);
  for (std::size_t k = 6; k < args.size(); k++) {  // gradients of the outputs
    auto gradient = args.get<ffi::Buffer<D>>(k);
    if (!gradient) return ffi::Unexpected(ffi::Error::InvalidArgument("edge convolution: wrong types"));
    widen(gradient->dimensions());
  }
  for (int k = 0; k < 6; k++) p.lead[k] = {full, std::vector<I>(shapes[k].begin(), shapes[k].begin() + n_lead)};
  for (I size : full) p.batches *= size;
  p.rows = shapes[0][n_lead];
  p.atoms = shapes[1][n_lead];
  p.components = shapes[0][n_lead + 1];
  p.channels = shapes[0][n_lead + 2];
  p.neighbors = shapes[1][n_lead + 1];
  p.harmonics = shapes[3][n_lead + 2];
  p.knots = shapes[5][n_lead + 1];
  p.n_tensor = (n_tensor + kWidth<F> - 1) / kWidth<F> * kWidth<F>;
  p.features = features->typed_data();
  p.y = y->typed_data();
  p.place = place->typed_data();
  p.table = table->typed_data();
  p.senders = senders->typed_data();
  p.mask = mask->typed_data();
  p.paths = paths;
  p.coupling = coupling;
  p.symbols = symbols;
  p.dense.assign(p.harmonics * p.n_tensor, F(0));
  p.from.assign(p.n_tensor / kWidth<F>, p.harmonics);
  p.to.assign(p.n_tensor / kWidth<F>, 0);
  for (std::size_t q = 0; q < symbols.size(); q++) {
    const I e = coupling[2 * q], h = coupling[2 * q + 1], block = e / kWidth<F>;
    p.dense[h * p.n_tensor + e] = F(symbols[q]);
    p.from[block] = std::min(p.from[block], h);
    p.to[block] = std::max(p.to[block], h + 1);
  }
  if (p.channels % kWidth<F>) return ffi::Unexpected(ffi::Error::InvalidArgument("edge convolution: odd channels"));
  return p;
}

template <ffi::DataType D>
ffi::Error forward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const I> paths,
                   ffi::Span<const I> coupling, ffi::Span<const double> symbols, I n_tensor, I order) {
  using F = ffi::NativeType<D>;
  auto given = problem<D>(args, paths, coupling, symbols, n_tensor, order);
  if (!given) return given.error();
  const Problem<F>& p = *given;
  Outputs<F> outputs;
  for (std::size_t k = 0; k < rets.size(); k++) append(outputs, **rets.get<ffi::Buffer<D>>(k), p);
  constexpr I atoms_at_a_time = 2;
  const I per_batch = (p.atoms + atoms_at_a_time - 1) / atoms_at_a_time;
  parallel(pool, p.batches * per_batch, [&](I task) {
    thread_local Edges<F> edges;
    const I b = task / per_batch, first = task % per_batch * atoms_at_a_time;
    for (I i = first; i < std::min(first + atoms_at_a_time, p.atoms); i++) {
      edges.fill(p, b, i, false);
      for (I k = 0; k < p.n_paths(); k++) {
        const Path path = p.path(k);
        const F* table = p.table_of(b) + k * p.knots * p.channels;
        F* out = outputs.at(path, b, i, p);
        over_channels<Forward, F>(p.channels, [&](I u, auto v) {
          dispatch<Forward, F, decltype(v)::value>(path, p, edges, path, p.features_of(b), table, u, out + u,
                                                   outputs.strides[path.output]);
        });
      }
    }
  });
  return ffi::Error::Success();
}

// Results: gradients of features and table and, if `positions`, of the spherical harmonics and places.
template <ffi::DataType D>
ffi::Error backward(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const I> paths,
                    ffi::Span<const I> coupling, ffi::Span<const double> symbols, I n_tensor, I order,
                    bool positions) {
  using F = ffi::NativeType<D>;
  auto given = problem<D>(args, paths, coupling, symbols, n_tensor, order);
  if (!given) return given.error();
  const Problem<F>& p = *given;
  Outputs<F> gradients;
  for (std::size_t k = 6; k < args.size(); k++) append(gradients, *args.get<ffi::Buffer<D>>(k), p);
  auto result = [&](int k) { return (**rets.get<ffi::Buffer<D>>(k)).typed_data(); };
  F *to_features = result(0), *to_table = result(1);
  F *to_y = positions ? result(2) : nullptr, *to_place = positions ? result(3) : nullptr;

  // Atoms of one system add to the same features and table: every slice of them has arrays of its own, added in order
  // afterwards, so that results do not depend on which thread was faster.
  const I slices = std::min(p.atoms, (pool.num_threads() + p.batches - 1) / p.batches);
  const I n_features = p.rows * p.components * p.channels, n_table = p.n_paths() * p.knots * p.channels;
  std::vector<F> more((slices - 1) * p.batches * (n_features + n_table));
  auto features_of = [&](I b, I s) {
    return s ? &more[(b * (slices - 1) + s - 1) * (n_features + n_table)] : to_features + b * n_features;
  };
  auto table_of = [&](I b, I s) { return s ? features_of(b, s) + n_features : to_table + b * n_table; };

  parallel(pool, p.batches * slices, [&](I task) {
    thread_local Edges<F> edges;
    thread_local std::vector<F> to_tensor, to_edge;
    const I b = task / slices, s = task % slices;
    Gradients<F> to{features_of(b, s), table_of(b, s), nullptr, nullptr};
    if (!s) {
      std::fill(to.features, to.features + n_features, F(0));
      std::fill(to.table, to.table + n_table, F(0));
    }
    for (I i = p.atoms * s / slices; i < p.atoms * (s + 1) / slices; i++) {
      edges.fill(p, b, i, positions);
      if (positions) {
        to_tensor.assign(edges.size * p.n_tensor * kWidth<F>, F(0));
        to_edge.assign(edges.size * kWidth<F>, F(0));
        to.tensor = to_tensor.data();
        to.place = to_edge.data();
      }
      for (I k = 0; k < p.n_paths(); k++) {
        const Path path = p.path(k);
        const F* table = p.table_of(b) + k * p.knots * p.channels;
        const F* gradient = gradients.at(path, b, i, p);
        over_channels<Backward, F>(p.channels, [&](I u, auto v) {
          dispatch<Backward, F, decltype(v)::value>(path, p, edges, path, p.features_of(b), table, u, gradient + u,
                                                    gradients.strides[path.output], to,
                                                    to.table + k * p.knots * p.channels);
        });
      }
      if (!positions) continue;
      const I row = (b * p.atoms + i) * p.neighbors;
      std::fill(to_y + row * p.harmonics, to_y + (row + p.neighbors) * p.harmonics, F(0));
      std::fill(to_place + row, to_place + row + p.neighbors, F(0));
      for (I j = 0; j < edges.size; j++) {
        to_place[row + edges.column[j]] = sum<F>(load(&to_edge[j * kWidth<F>]));
        for (std::size_t q = 0; q < p.symbols.size(); q++)
          to_y[(row + edges.column[j]) * p.harmonics + p.coupling[2 * q + 1]] +=
              F(p.symbols[q]) * sum<F>(load(&to_tensor[(j * p.n_tensor + p.coupling[2 * q]) * kWidth<F>]));
      }
    }
  });
  if (slices > 1)
    parallel(pool, p.batches * slices, [&](I task) {
      const I b = task / slices, part = task % slices;
      for (I s = 1; s < slices; s++) {
        F *a = features_of(b, 0), *c = table_of(b, 0);
        const F *from = features_of(b, s), *from_table = table_of(b, s);
        for (I n = n_features * part / slices; n < n_features * (part + 1) / slices; n++) a[n] += from[n];
        for (I n = n_table * part / slices; n < n_table * (part + 1) / slices; n++) c[n] += from_table[n];
      }
    });
  return ffi::Error::Success();
}

auto bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<ffi::Span<const I>>("paths")
      .Attr<ffi::Span<const I>>("coupling")
      .Attr<ffi::Span<const double>>("symbols")
      .Attr<I>("n_tensor")
      .Attr<I>("order");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(forward_float32, forward<ffi::F32>, bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(forward_float64, forward<ffi::F64>, bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(backward_float32, backward<ffi::F32>, bind().Attr<bool>("positions"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(backward_float64, backward<ffi::F64>, bind().Attr<bool>("positions"));
