"""onelayer: find out which layers of a language model are worth training with RL, and train them.

The commands as functions (`scan`, `train`, `evaluate`), profiles, plans on any model (`select_layers`) and deltas in any
script (`load_delta`); see docs/api.md. Everything is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from onelayer.version import __version__ as __version__

# Before MKL's first product: it then computes the same wherever its arguments lie in memory. Otherwise a row's last bits
# depend on the thread that it falls to, in attention among others (seen on an AMD EPYC with two threads).
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# Where the package `kernels` is installed, transformers fetches compiled code from the hub for some families (Mamba's
# among them) and runs it, whatever trust_remote_code says.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

if TYPE_CHECKING:
    from onelayer.api import TrainedArm, evaluate, scan, train
    from onelayer.arms.load_delta import load_delta, read_delta, wearing
    from onelayer.arms.select_layers import Selection, select_layers
    from onelayer.config.configs import BenchmarkConfig, ScanConfig, TrainConfig
    from onelayer.errors import RunStopped, UserError
    from onelayer.judging.profile import Profile

__all__ = [
    "BenchmarkConfig",
    "Profile",
    "RunStopped",
    "ScanConfig",
    "Selection",
    "TrainConfig",
    "TrainedArm",
    "UserError",
    "evaluate",
    "load_delta",
    "read_delta",
    "scan",
    "select_layers",
    "train",
    "wearing",
]

_PLACES = {
    "api": ("TrainedArm", "evaluate", "scan", "train"),
    "config.configs": ("BenchmarkConfig", "ScanConfig", "TrainConfig"),
    "arms.load_delta": ("load_delta", "read_delta", "wearing"),
    "errors": ("RunStopped", "UserError"),
    "judging.profile": ("Profile",),
    "arms.select_layers": ("Selection", "select_layers"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'onelayer' has no attribute '{name}'")
    return getattr(import_module(f"onelayer.{_MODULES[name]}"), name)
