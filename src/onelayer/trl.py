"""For scripts: ``from onelayer.trl import OneLayerGRPOTrainer``, TRL's trainer that takes a layer plan.

Raises:
    UserError: on import, when TRL is missing or was not tested with this version of onelayer.
"""

from onelayer.engines.versions import check_versions

check_versions("trl", ("trl", "accelerate"))

from onelayer.engines.trl.trainer import OneLayerGRPOTrainer  # noqa: E402 - after the check, which says what is missing

__all__ = ["OneLayerGRPOTrainer"]
