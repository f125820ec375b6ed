"""The reference network once more, in plain numpy from its own weights: independent of `ffmd_jax.model`."""

import e3nn_jax as e3nn
import numpy as np

from ffmd_jax.models import layers


def plain_network(options, weights, one_hot, vectors, receivers, senders, velocities):
    """The output ``[n_atoms, 2, 3]``; features are {(l, parity): [n_atoms, channels, 2l + 1]}."""
    lmax, width = options["max_rotation_order"], options["num_hidden_channels"]

    def harmonics(v):
        irreps = e3nn.Irreps([(1, (degree, (-1) ** degree)) for degree in range(lmax + 1)])
        values = e3nn.spherical_harmonics(irreps, e3nn.IrrepsArray("1o", v), True, normalization="component")
        return [np.asarray(chunk)[:, 0] for chunk in values.chunks]

    def silu(x):
        return layers.SILU_SCALE * x / (1 + np.exp(-x))

    def linear(name, x, outputs):
        flat, mixed = weights[f"_int_out.{name}.weight"], {}
        for irrep in sorted(x.keys() & outputs.keys()):
            n = x[irrep].shape[1] * outputs[irrep]
            block, flat = flat[:n].reshape(-1, outputs[irrep]), flat[n:]
            mixed[irrep] = np.einsum("nuc,uw->nwc", x[irrep], block) / np.sqrt(len(block))
        assert flat.size == 0
        return mixed

    def species(name, x, outputs):
        flat, mixed = weights[f"{name}.weight"], {}
        for irrep in sorted(x.keys() & outputs.keys()):
            shape = (x[irrep].shape[1], one_hot.shape[1], outputs[irrep])
            block, flat = flat[: np.prod(shape)].reshape(shape), flat[np.prod(shape) :]
            mixed[irrep] = np.einsum("nuc,ns,usw->nwc", x[irrep], one_hot, block) / np.sqrt(shape[0] * shape[1])
        assert flat.size == 0
        return mixed

    def mlp(name, x):
        names = sorted(key for key in weights if key.startswith(f"_int_out.{name}.layer"))
        for i, key in enumerate(names):
            x = (silu(x) if i else x) @ weights[key] / np.sqrt(len(weights[key]))
        return x

    def product(x, y, path_weights):
        paths = [((l1, p), l2, (l3, p * (-1) ** l2)) for l1, p in sorted(x) for l2 in range(lmax + 1)
                 for l3 in range(abs(l1 - l2), min(l1 + l2, lmax) + 1)]  # fmt: skip
        paths.sort(key=lambda path: path[2])
        out = {}
        assert path_weights.shape[1] == len(paths) * width
        for i, (first, l2, last) in enumerate(paths):
            three_j = np.asarray(e3nn.clebsch_gordan(first[0], l2, last[0]))
            three_j = three_j / np.linalg.norm(three_j) * np.sqrt(2 * last[0] + 1)
            value = np.einsum("eua,eb,abc->euc", x[first], y[l2], three_j)
            out.setdefault(last, []).append(value * path_weights[:, i * width : (i + 1) * width, None])
        return {irrep: np.concatenate(values, axis=1) for irrep, values in out.items()}

    r, speed = np.linalg.norm(vectors, axis=-1)[:, None], np.linalg.norm(velocities, axis=-1)[:, None]
    x, p = r / options["edge_cutoff"], options["num_edge_poly_cutoff"]
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    roots = weights["_encoding.EdgeLengthEncoding.radial_basis.bessel_roots"]
    radial = 2 / options["edge_cutoff"] * np.sin(roots * x) / (r + 1e-5) * envelope
    n, centres = options["num_vel_rbf"], np.linspace(0, options["vel_max"], options["num_vel_rbf"] + 2)
    gaussians = np.sqrt(n) * np.exp(-(((speed - centres[1:-1]) / centres[1]) ** 2)) / 1.12
    speed = species("_encoding.VelocityNormEncoding.element_tp", {(0, 1): gaussians[..., None]}, {(0, 1): n})[0, 1][
        ..., 0
    ]
    y_edge, y_v = harmonics(vectors), harmonics(velocities)
    h = {(l1, (-1) ** l1): y_v[l1][:, None] for l1 in range(1, lmax + 1)}
    h[0, 1] = np.concatenate([one_hot, speed], axis=1)[..., None]
    h = linear("LinearInit.linear", h, dict.fromkeys(h, width))
    for i in range(options["num_mp_layers"]):
        block = f"mp_layer_{i}"
        messages = product({k: v[senders] for k, v in h.items()}, y_edge, mlp(f"{block}.edge_mlp", radial))
        m = {k: np.zeros((len(one_hot), *v.shape[1:])) for k, v in messages.items()}
        for k, v in messages.items():
            np.add.at(m[k], receivers, v / options["avg_num_neighbors"])
        m = linear(f"{block}.linear_contraction", m, dict.fromkeys(m, width))
        m = product(m, y_v, mlp(f"{block}.vel_mlp", speed))
        outputs = dict.fromkeys(sorted(m), width)
        m = linear(f"{block}.linear_updates", m, outputs | {(0, 1): width * (1 + sum(l1 > 0 for l1, _ in outputs))})
        scalars, gates = m[0, 1][:, :width], silu(m[0, 1][:, width:])
        m[0, 1] = silu(scalars)
        if (0, -1) in m:
            m[0, -1] = layers.TANH_SCALE * np.tanh(m[0, -1])
        for j, irrep in enumerate(irrep for irrep in outputs if irrep[0] > 0):
            m[irrep] = m[irrep] * gates[:, j * width : (j + 1) * width]
        residual = species(f"_int_out.{block}.tp_resnet", h, outputs)
        h = {k: (m[k] + residual.get(k, 0)) / np.sqrt(2) for k in m}
    h = linear("LinearCompression.linear", h, {(1, -1): width // 4})
    return linear("LinearReadOut.linear", h, {(1, -1): 2})[1, -1]
