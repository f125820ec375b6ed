"""The command line: thin commands over the modules of the package."""

import logging
import warnings

import tyro


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
    tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="ffmd",
        description="Force-free molecular dynamics: train a network that steps atoms from t to t + Δt, and run it.",
        args=arguments,
    )
