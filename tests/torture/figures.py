"""What one promise was put through, and how often it held."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of docs/reliability.md."""

    promise: str
    """What a user may rely on, as one plain sentence without its figure."""
    tried: int
    """Attempts to break it."""
    held: int
    """Attempts that it withstood; below `tried` the promise is broken."""
    control: str
    """What was broken on purpose, to see that the check would notice."""
    controls: int
    """Broken variants that were tried."""
    caught: int
    """Broken variants that the check refused; below `controls` the check proves nothing."""
    seen: str = ""
    """What else was measured: longest time, most memory, largest difference."""

    def good(self) -> bool:
        """Whether everything held and every broken variant was caught."""
        return 0 < self.tried == self.held and 0 < self.controls == self.caught
