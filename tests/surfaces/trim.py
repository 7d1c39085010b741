"""Cut a dump of TensorRT's Python surface down to what this project could use; see README.md beside this file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

CLASSES = (
    *("Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger"),
    *("INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache", "Logger"),
    *("OnnxParser", "ParserError", "Runtime"),
)
ENUMS = (
    *("BuilderFlag", "DataType", "ExecutionContextAllocationStrategy", "LayerInformationFormat", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TensorIOMode"),
)
_BINDINGS = r"tensorrt(?:_rtx)?_bindings\.tensorrt(?:_rtx)?"
_PREFIX = re.compile(rf"\b(?:{_BINDINGS}|nvonnxparser|nvinfer1|typing|collections\.abc)(?:\.|::)")


def trimmed(surface: dict[str, Any]) -> dict[str, Any]:
    """The classes and enums above, with signatures that name types without their module."""
    classes = {
        name: {member: _PREFIX.sub("", text) for member, text in surface["classes"][name].items()}
        for name in CLASSES
        if name in surface["classes"]
    }
    return {
        "version": surface["version"],
        "enums": {name: surface["enums"][name] for name in ENUMS if name in surface["enums"]},
        "classes": {
            name: {member: text for member, text in members.items() if _is_of_use(text)}
            for name, members in classes.items()
        },
    }


def _is_of_use(text: str) -> bool:
    return not text.startswith("Initialize self")


if __name__ == "__main__":
    for source in map(Path, sys.argv[1:]):
        target = Path(__file__).with_name(source.name)
        target.write_text(json.dumps(trimmed(json.loads(source.read_text())), indent=1, sort_keys=True) + "\n")
