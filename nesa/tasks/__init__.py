"""Task sources by name. Light: the heavy libraries are imported when data are loaded."""

from __future__ import annotations

from nesa.tasks import cifar10, edges, shapes
from nesa.tasks.locations import DataDirs
from nesa.tasks.source import Arrays, Param, Source

SOURCES: dict[str, Source] = {s.name: s for s in (edges.SOURCE, shapes.SOURCE, cifar10.SOURCE)}

__all__ = ["SOURCES", "Arrays", "DataDirs", "Param", "Source"]
