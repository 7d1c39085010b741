"""Which backbone weights a model was built on; torch-free, so that `info` can show it anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from acd_edge.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """Backbone weights as they were found.

    Attributes:
        name: `ModelConfig.backbone`.
        sha256: of the weight file; of both files' digests, joined, where the backbone has two.
        found_at: a path, or the packages that carry it.
    """

    name: str
    sha256: str
    found_at: str

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> BackboneRecord:
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: a key is unknown or missing, or a value is no text.
        """
        known = [field.name for field in fields(cls)]
        if sorted(values) != sorted(known):
            raise CheckpointError(
                f"a backbone record has {', '.join(known)}; this one {', '.join(values) or 'nothing'}"
            )
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        if wrong := sorted(set(values) - set(texts)):
            raise CheckpointError(f"{wrong[0]} of a backbone record is a text, got {values[wrong[0]]!r}")
        return cls(**texts)
