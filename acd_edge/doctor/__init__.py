"""What `acd-edge doctor` sees and advises: facts of this machine, and rules over them. Never torch.

`facts.gather` looks, `verdict.examine` judges; a broken library breaks the process that tries it, not this one.
"""

from __future__ import annotations

__all__: list[str] = []
