"""The real generator service around a paced model: `python -m benchmarks.paced.generator`."""

import asyncio
import os
import sys

import torch

from benchmarks.paced.forward import Pace, PacedModel
from generator_svc.__main__ import run
from generator_svc.settings import PREFIX, GeneratorSettings
from svc_common.lm.loading import load_model
from svc_common.logs import configure_logging
from svc_common.settings import load_settings

SEED = 1  # of the script


def main() -> None:
    """Serve until told to stop."""
    settings = load_settings(GeneratorSettings, PREFIX, os.environ)
    configure_logging(settings.log_level, sys.stderr)
    torch.set_num_threads(settings.num_torch_threads)
    loaded = load_model(
        settings.model_dir,
        dtype=settings.dtype,
        device=settings.device,
        context_length=settings.context_length,
        setting=f"{PREFIX}MODEL_DIR",
    )
    pace = Pace.from_environment(os.environ)
    asyncio.run(run(settings, PacedModel(**vars(loaded), pace=pace, seed=SEED)))


if __name__ == "__main__":
    main()
