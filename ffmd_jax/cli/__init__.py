"""The command line: thin commands over the modules of the package."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro

from ffmd_jax import __version__
from ffmd_jax.core.commands import did_you_mean


def run(arguments: list[str]) -> None:
    """Parses the arguments and runs the command."""
    from ffmd_jax.cli import analyze, convert, dataset, demo, energy, evaluate, info, reference, rollout, train

    commands = {
        "demo": demo.demo,
        "reference": reference.reference,
        "dataset": dataset.dataset,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "rollout": rollout.rollout,
        "analyze": analyze.analyze,
        "energy": energy.energy,
        "info": info.info,
        "import-trajcast": convert.import_trajcast,
        "export-trajcast": convert.export_trajcast,
    }
    # jax warns about a missing TPU or GPU plugin, orbax logs every file: neither is for users of a command.
    logging.getLogger("jax").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    if arguments[:1] == ["--version"]:
        print(f"ffmd {__version__}")
        return
    wanted = commands.keys() & arguments[:1]
    if arguments and not wanted and (meant := did_you_mean(arguments[0], commands)):
        print(f"ffmd: unknown command '{arguments[0]}'{meant}", file=sys.stderr)
        sys.exit(2)
    tyro.cli(
        _any_of({name: commands[name] for name in wanted} or commands, short=not wanted),
        prog="ffmd",
        description="Force-free molecular dynamics: train a network that steps atoms from t to t + Δt, and run it.\n\n"
        "`ffmd COMMAND --help` explains a command, `ffmd --version` prints the version.",
        args=arguments,
    )


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
