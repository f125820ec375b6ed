"""The command line: thin commands over the modules of the package."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro

from ffmd_jax import __version__
from ffmd_jax.core.commands import did_you_mean


def run(arguments: list[str]) -> None:
    """Parses the arguments and runs the command."""
    from ffmd_jax.cli import analyze, convert, dataset, demo, energy, evaluate, info, reference, rollout, screen, train

    commands = {
        "demo": demo.demo,
        "reference": reference.reference,
        "dataset": dataset.dataset,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "rollout": rollout.rollout,
        "screen": screen.screen,
        "analyze": analyze.analyze,
        "energy": energy.energy,
        "info": info.info,
        "import-trajcast": convert.import_trajcast,
        "export-trajcast": convert.export_trajcast,
    }
    # jax warns about a missing TPU or GPU plugin, orbax logs every file and the tracebacks of errors that it raises,
    # too: neither is for users of a command.
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    if arguments[:1] == ["--version"]:
        print(f"ffmd {__version__}")
        return
    wanted = commands.keys() & arguments[:1]
    if arguments and not wanted and (meant := did_you_mean(arguments[0], commands)):
        print(f"ffmd: unknown command '{arguments[0]}'{meant}", file=sys.stderr)
        sys.exit(2)
    if wanted and not {"--help", "-h"} & set(arguments):
        _check_platform()
    tyro.cli(
        _any_of({name: commands[name] for name in wanted} or commands, short=not wanted),
        prog="ffmd",
        description="Force-free molecular dynamics: train a network that steps atoms from t to t + Δt, and run it.\n\n"
        "`ffmd COMMAND --help` explains a command, `ffmd --version` prints the version.",
        args=arguments,
    )


def _check_platform() -> None:
    """Raises RuntimeError, in one line, if JAX_PLATFORMS asks for what this machine or installation does not have."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if not asked or asked == "cpu":
        return
    import jax

    try:
        jax.devices()
    except Exception as error:  # an AssertionError without a word, or pages
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"JAX_PLATFORMS={asked}: jax cannot use this platform ({reason}); for GPUs install 'ffmd-jax[cuda13]', for "
            f"TPUs 'ffmd-jax[tpu]', or leave JAX_PLATFORMS out"
        ) from error


def _any_of(commands: dict[str, Callable[..., None]], short: bool) -> Any:
    """What tyro makes subcommands of, each with its docstring as help, or with the first line of it if ``short``."""
    kinds = [
        Annotated[
            Any,
            tyro.conf.subcommand(
                name, constructor=command, description=(command.__doc__ or "").splitlines()[0] if short else None
            ),
        ]
        for name, command in commands.items()
    ]
    return Union[(*kinds, Annotated[None, tyro.conf.Suppress])]
