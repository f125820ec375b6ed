"""``ffmd train``."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ffmd_jax.cli import common
from ffmd_jax.core import launch
from ffmd_jax.core.launch import Processes
from ffmd_jax.models import config as configs
from ffmd_jax.training.settings import Training


def train(
    data: Positional[Path],
    /,
    out: Path,
    training: Annotated[Training, tyro.conf.arg(name="")] = Training(),
    config: configs.Architecture = configs.SMALL,
    kind: Literal["propagator", "potential"] = "propagator",
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes(),
    time_step: float | None = None,
    time_steps: tuple[float, ...] = (),
    init: str | None = None,
    rehearse: Path | None = None,
    rehearse_share: float = 0.5,
    tensorboard: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Trains a model.

    The model folder always holds the best weights so far, and what is needed to continue.

    Validation after each epoch, the first of which also writes the first weights; metrics go to metrics.jsonl and
    training.png, training states to checkpoints/.  Ctrl-C or SIGTERM stops after the running block of steps and saves.
    After that, or after a kill, --resume with the same settings continues from the last saved state, as if nothing had
    happened; also on other devices, with other rounding.

    Trains on all devices that it sees.  Batches are divided over them, so the result does not depend on their number.
    Started on several machines by Slurm or on a TPU slice, all processes train together; elsewhere, start one on each
    with --coordinator, --num-processes and --process-id.  They share the folder of --out.

    Args:
        data: Dataset made by `ffmd dataset`, of one system or many, which one model learns together.
        out: Model folder to write.
        training: How to train.
        config: Sizes of the network; first of all try other cutoffs.  With --init, those of its model.
        kind: propagator: a step of Δt, learned from pairs of frames.  potential: energy, forces and stress, learned
            from frames with energies and, if known, forces and stresses (`ffmd reference --forces`), for runs at
            constant pressure and constant energy; start from --config.layers 3 --batch-size 1.
        processes: Several processes, started by hand.
        time_step: Δt of the model, fs; a multiple of the frame interval (None: that of --init, or the dataset's).
        time_steps: Several Δt, fs, instead: one model for any Δt from the smallest to the largest, of which
            `ffmd rollout --time-step` takes one.  Each is a multiple of the frame interval.
        init: Model to start from, folder or name of a shipped one: its weights, scales and sizes.
            Fine-tuning: a thousand pairs of a new teacher, or of a new molecule, are enough.
        rehearse: Dataset that --init was trained on: some of it is learned again, so that it is not forgotten.
        rehearse_share: Share of these in the pairs of an epoch.
        tensorboard: Also write metrics for TensorBoard (needs tensorboardX).
        resume: Continue the training in --out.
        overwrite: Replace an existing model folder.
    """
    if time_steps and time_step is not None:
        raise ValueError("say --time-step for one Δt or --time-steps for several")
    launch.start(processes)
    from ffmd_jax.core.processes import only_first_prints
    from ffmd_jax.data import dataset_file

    with only_first_prints():
        from ffmd_jax.training import runs

        architecture = None if init is not None and config == configs.SMALL else config
        runs.check_folder(out, training, architecture, resume, overwrite, data, init, rehearse)
        runs.run(
            dataset_file.read(data), out, training, architecture, kind=kind, init=init,
            time_step_fs=time_steps or time_step, rehearse=None if rehearse is None else dataset_file.read(rehearse),
            rehearse_share=rehearse_share, tensorboard=tensorboard, resume=resume, overwrite=overwrite,
            source=str(data), say=common.say,
        )  # fmt: skip
