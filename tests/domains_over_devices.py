"""Runs one system on one and eight devices; a script of its own: the number of devices belongs to the process.

The shipped model of quartz with its potential, monitors and thermostat, of 180 atoms, which eight does not divide.
"""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ffmd_jax as ffmd
from ffmd_jax.core import domains, neighbors
from ffmd_jax.core.state import cast
from ffmd_jax.dynamics import division
from ffmd_jax.reference_md import systems


def tables_hold_the_same(repeat, n_domains, cutoff):
    """Neighbour tables of quartz, selected and whole, of all domains together."""
    quartz = systems.quartz(repeat)
    shaken = np.random.default_rng(0).normal(scale=0.1, size=quartz.state.positions.shape)
    state = cast(quartz.state._replace(positions=quartz.state.positions + shaken), jnp.float32)
    one = neighbors.plan(quartz.system, state, cutoff, 0.5, 1.15, select=True)
    many = neighbors.plan(quartz.system, state, cutoff, 0.5, 1.15, select=True, n_domains=n_domains)
    assert one == dataclasses.replace(many, domains=1, axis=0, reach=0)

    def graph(search, state):
        table = neighbors.build(search, quartz.system, state)
        found, too_many = neighbors.select(search, state, table)
        rows = [jnp.where(found.mask, found.senders, -1), jnp.where(found.mask[..., None], found.shifts, 0)]
        number = domains.own(found, jnp.arange(len(state.positions)))  # as a feature of every atom
        seen = domains.exchanged(found, {"number": number[:, None, None]})["number"][:, 0, 0]
        rows.append(jnp.where(found.mask, seen[domains.local(found).senders], -1))
        return [domains.whole(found, x) for x in rows], table.overflow | too_many

    def divided(search):
        devices = domains.devices_of(n_domains)
        return jax.jit(lambda state: domains.over(devices, lambda x: graph(search, x), (state,), domains.SAME))(state)

    expected, (found, overflow) = jax.jit(lambda state: graph(one, state))(state)[0], divided(many)
    assert not overflow and all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert np.array_equal(found[0], found[2])
    few = dataclasses.replace(many, reach=0)
    assert divided(few)[1] and neighbors.grow(few, quartz.system, state.cell).reach == 1
    return many


def main(folder):
    assert jax.device_count() == 8
    assert tables_hold_the_same((4, 4, 7), 7, 3.0).bins
    assert tables_hold_the_same((2, 2, 5), 5, 5.0).reach == 2  # every device sees all; not so above and below
    quartz = systems.quartz((2, 2, 5))
    assert division.over(180, 0, 1).domains is None and division.over(180, 0, None).domains is None
    ensemble = ffmd.NVT(300.0, friction_tau_fs=3000.0, friction_above_per_cm=300.0)
    options = {"every": 20, "progress": False}
    start, out = (quartz.system, quartz.state), folder / "run.h5"
    one, eight = (
        ffmd.simulate("quartz", start, steps=100, ensemble=ensemble, devices=n, **options).trajectory for n in (1, 8)
    )
    moved = np.sqrt(np.mean((one.frames.positions[-1] - one.frames.positions[0]) ** 2))
    away = np.abs(one.frames.positions - eight.frames.positions).max()
    print(f"{away:.1e} Å of {moved:.2f} Å")
    assert away < 1e-3 * moved
    assert np.abs(one.observables["total_energy_eV"] - eight.observables["total_energy_eV"]).max() < 1e-3
    for steps in (20, 40):  # stopped and continued
        run = ffmd.simulate("quartz", start, steps=steps, ensemble=ensemble, devices=8, out=out, resume=True, **options)
    assert np.array_equal(run.trajectory.frames.positions, eight.frames.positions[:2])
    for devices, word in ((None, "on 8 device"), (9, "there are 8"), (0, "there are 8")):
        with pytest.raises(ValueError, match=word):
            ffmd.simulate(
                "quartz", start, steps=200, ensemble=ensemble, devices=devices, out=out, resume=True, **options
            )
    with pytest.raises(ValueError, match="force field"):
        ffmd.simulate("quartz", start, steps=20, devices=8, potential="reference:quartz")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
    print("the same on eight devices")
