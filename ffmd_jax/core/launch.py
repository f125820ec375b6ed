"""Several processes of one command: how they find each other."""

import dataclasses
import importlib.util
import os
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes, started by hand; nothing is needed on one machine, under Slurm, or on a TPU slice.

    Attributes:
        coordinator: HOST:PORT of process 0, reachable from all processes.
        num_processes: How many processes there are.
        process_id: Which one this is, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self):
        given = [value is not None for value in dataclasses.astuple(self)]
        if any(given) and not all(given):
            raise ValueError("`coordinator`, `num_processes` and `process_id` belong together: give all three or none")
        if not 0 <= (self.process_id or 0) < (self.num_processes or 1):
            raise ValueError(f"`process_id` must be from 0 to {self.num_processes} - 1, not {self.process_id}")
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"`coordinator` must be HOST:PORT, not {self.coordinator}")


def start(processes: Processes) -> None:
    """Joins the processes of this command; does nothing where there is only one.  Comes before any use of a device.

    Raises:
        RuntimeError: the other processes cannot be reached within five minutes, or an MPI that jax does not know.
    """
    import jax

    if processes.coordinator is not None:
        jax.distributed.initialize(
            processes.coordinator,
            processes.num_processes,
            processes.process_id,
            cluster_detection_method="deactivate",
        )
    elif _announced():
        jax.distributed.initialize()
    elif int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        raise RuntimeError(
            "jax does not find the other processes of this mpirun (it knows Open MPI 4); say `coordinator` HOST:PORT "
            "`num_processes` $OMPI_COMM_WORLD_SIZE `process_id` $OMPI_COMM_WORLD_RANK"
        )
    elif _tpu():
        # Only the TPU's metadata tell whether this is one machine of a slice; jax reads them.
        try:
            jax.distributed.initialize()
        except ValueError:
            return


def _announced() -> bool:
    """True if the environment of this process says that it is one of several, in a way that jax understands.

    A single process is left alone: jax would give it one GPU of several under Slurm.
    """
    slurm = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= os.environ.keys()
    if slurm and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return True
    if "OMPI_MCA_orte_hnp_uri" in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return True
    # Every pod of Kubernetes looks like one of a cluster; those of an indexed job have a number.
    pod = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
    return pod and importlib.util.find_spec("kubernetes") is not None


def _tpu() -> bool:
    """True on a machine with TPU chips and jax's library for them."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    return Path("/dev/accel0").exists() or any(Path("/dev").glob("vfio/[0-9]*"))
