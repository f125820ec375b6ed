"""Runs replicas on one and on four devices; a script of its own, because the number of devices belongs to the process.

Constant pressure, a heat bath of its own for each, energies conserved, tables that are made anew and that overflow, and
one replica that a monitor ends: everything that replicas decide together.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ffmd_jax.core import mechanics
from ffmd_jax.dynamics import alarms, monitors, replicas, rollout
from ffmd_jax.dynamics.engine import Engine
from ffmd_jax.dynamics.ensemble import NPT, NVT
from ffmd_jax.dynamics.potentials import Potential
from ffmd_jax.models import config as configs
from ffmd_jax.reference_md import integrator, systems

N, KELVINS = 4, (40.0, 60.0, 80.0, 100.0)

jax.config.update("jax_enable_x64", True)
argon = systems.argon((2, 2, 2))
exact = integrator.drift_kick_drift(argon.energy, 10.0)


def explode(system, state, graph):  # where atom 0 crosses a line
    after = exact(system, state, graph)
    return after._replace(velocities=jnp.where(after.positions[0, 0] > 9.1, jnp.nan, after.velocities))


def run(devices, own_systems=False):
    starts = [
        mechanics.maxwell_boltzmann(jax.random.key(i), argon.system, argon.state, k) for i, k in enumerate(KELVINS)
    ]
    starts[1] = starts[1]._replace(positions=starts[1].positions + jnp.asarray([9.0, 0, 0]))
    state = jax.tree.map(lambda *values: jnp.stack(values), *starts)
    state = state._replace(velocities=state.velocities.at[1, 0, 0].set(0.003))
    sizes = configs.Architecture(cutoff=8.0)
    model = configs.ModelConfig((18,), (39.95,), 10.0, 1e9, 1e9, 1.0, 40.0, architecture=sizes)
    limits = monitors.limits(model, None, argon.system)
    system, more = argon.system, {
        "conserve_energy": True, "ensemble": NPT(KELVINS, tau_fs=100.0, barostat_every=3),
        "potential": Potential("argon", argon.energy, argon.cutoff, None),
    }  # fmt: skip
    if own_systems:  # as in a screening
        system, limits = jax.tree.map(lambda x: np.stack([x] * N), (system, limits))
        more = {"ensemble": NVT(60.0, 100.0, "langevin")}
    engine = Engine(
        system, state, explode, cutoff=argon.cutoff, time_step_fs=10.0, replicas=N, devices=devices, every=2,
        monitor=alarms.monitor(explode, limits), skin=0.3, wrap=True, **more,
    )  # fmt: skip
    few = dataclasses.replace(engine.search, capacity=engine.search.capacity - 12)
    engine._shape = engine._shape.with_search(few, None)
    carry, blocks = engine.start(state, jax.random.split(jax.random.key(0), N)), []
    while int(carry.step) < 60:
        blocks.append(engine.advance(carry, (60 - int(carry.step)) // 2))
        carry = blocks[-1].carry
    assert own_systems or engine.search.capacity > few.capacity  # a table overflowed
    return rollout.gather(iter(blocks))


assert jax.device_count() == 4
assert replicas.over(6).devices.size == 3 and replicas.over(6, 2).devices.size == 2 and replicas.over(5).devices is None
for own_systems in (False, True):
    one, four = run(1, own_systems), run(None, own_systems)
    assert len(four.carry.state.positions.sharding.device_set) == 4
    assert one.carry.halted.tolist() == four.carry.halted.tolist() == [False, True, False, False]
    assert 0 < one.valid[:, 1].sum() < 30 and np.array_equal(one.valid, four.valid)
    assert own_systems or len(np.unique(four.frames.cell[-1, :, 0, 0])) == 4  # volumes changed, of each on its own
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10),
        (one.frames, one.observables), (four.frames, four.observables),
    )  # fmt: skip
print("the same on four devices")
