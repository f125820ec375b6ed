"""Propagators made of propagators."""

from ffmd_jax.core.state import Graph, Propagate, State, System


def reversible(propagate: Propagate) -> Propagate:
    """Makes a propagator that is nearly reversible in time reversible up to the square of its error.

    A step, and from its end, with velocities reversed, a step back, miss the start.  The step that starts half of that
    miss on the other side is, to first order, the mean of the step and of the inverse of the step back.  What the
    propagator's error does in both directions cancels: gains and losses of energy, which in a rollout add up.  Of the
    other errors half of the square is left, if those of the two are independent.

    Like other reversible integrators it has resonances: a vibration whose period is Δt or 2 Δt, to within the error of
    a step, can gain energy in every step.

    Costs three evaluations, with the neighbours of the start.  The idea is that of adjoint methods (Hairer, Lubich &
    Wanner, Geometric Numerical Integration, 2006, doi:10.1007/3-540-30666-8, II.3 and V.1).
    """

    def step(system: System, state: State, graph: Graph) -> State:
        end = propagate(system, state, graph)
        back = propagate(system, end._replace(velocities=-end.velocities), graph)
        start = state._replace(
            positions=1.5 * state.positions - 0.5 * back.positions,
            velocities=1.5 * state.velocities + 0.5 * back.velocities,
        )
        return propagate(system, start, graph)

    return step
