"""Train Unstructured Recursive Networks: one weight matrix that chooses its own architecture (Golkar).

Needs torch, numpy and scipy alone, and has no tasks, files or curricula. The measures are in `urn.measures.structure`,
the proof that a structure is real in `urn.measures.block_proof`.
"""

from urn.compaction import ActivityTracker, compact, set_active_sets, update_full_pass
from urn.layout import Distance, Layout
from urn.mlp_conversion import embed, extract
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty, literal_penalty
from urn.surgery import keep_only, rebind_parameters, shard, unshard
from urn.update_rules import UPDATES, Update

__all__ = [
    "UPDATES",
    "URN",
    "ActivityTracker",
    "Distance",
    "Layout",
    "Penalty",
    "Proximal",
    "Update",
    "compact",
    "embed",
    "extract",
    "keep_only",
    "literal_penalty",
    "rebind_parameters",
    "set_active_sets",
    "shard",
    "unshard",
    "update_full_pass",
]
