"""The real reward service around a paced model: `python -m benchmarks.paced.reward`."""

import asyncio
import dataclasses
import os
import sys

import torch

from benchmarks.paced.forward import Pace, PacedNetwork
from reward_svc.__main__ import run
from reward_svc.model import load_pers_rm
from reward_svc.settings import PREFIX, RewardSettings
from svc_common.logs import configure_logging
from svc_common.settings import load_settings

SEED = 2  # of the script


def main() -> None:
    """Serve until told to stop."""
    settings = load_settings(RewardSettings, PREFIX, os.environ)
    configure_logging(settings.log_level, sys.stderr)
    torch.set_num_threads(settings.num_torch_threads)
    model = load_pers_rm(settings)
    network = PacedNetwork(
        model.network.backbone,
        model.context_length,
        pace=Pace.from_environment(os.environ),
        seed=SEED,
    )
    asyncio.run(run(settings, dataclasses.replace(model, network=network)))


if __name__ == "__main__":
    main()
