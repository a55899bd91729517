"""The Unstructured Recursive Network: one weight matrix that chooses its own architecture (Golkar).

Needs torch, numpy and scipy alone; knows no tasks, files or curricula. The measures are in `urn.measures.structure`, the
proof that a structure is real in `urn.measures.block_proof`.
"""

from urn.compaction import ActivityTracker, compact, keep_only, rebind_parameters, set_active_sets, update_full_pass
from urn.layout import Distance, Layout
from urn.mlp_conversion import embed, extract
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty, literal_penalty
from urn.row_partition import shard, unshard
from urn.update_rules import UPDATES, Update

__all__ = [
    "UPDATES",
    "URN",
    "Layout",
    "Distance",
    "Penalty",
    "Proximal",
    "Update",
    "ActivityTracker",
    "compact",
    "embed",
    "extract",
    "rebind_parameters",
    "keep_only",
    "literal_penalty",
    "update_full_pass",
    "set_active_sets",
    "shard",
    "unshard",
]
