"""How long until something happens."""

import subprocess
import sys

from cxr.benchmark.command import PROJECT, Settings
from cxr.benchmark.measure import Case, Contest, hold


def run_stage(settings: Settings) -> list[dict]:
    def start(*arguments: str):
        def work() -> int:
            subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, check=True)
            return 1

        return work

    cases = [
        Case("python train.py --help", "ours", start("train.py", "--help")),
        Case("python -c 'import pytorch_lightning'", "peer", start("-c", "import pytorch_lightning")),
        Case("python -c 'import torch'", "peer", start("-c", "import torch")),
        Case("python -c ''", "limit", start("-c", "")),
    ]
    return [hold(Contest("Starting", "starts", cases, [(cases[0].name, other.name) for other in cases[1:]]), settings.rounds)]
