"""What is applied now: an ordered map from handle to placements, thread-safe, data only.

It must not know hooks or models: the session makes the engine follow it.
"""

import threading
from dataclasses import dataclass, replace
from pathlib import PurePath

from steer_tools.core.plan import Plan
from steer_tools.core.vectors import Proof
from steer_tools.errors import UnknownSteeringIdError, quoted


@dataclass(frozen=True)
class Applied:
    """One apply call: the placements of strength 1 in its unit, and the strength they share.

    `source` says where the vector came from; `target` and `condition` are as they were asked for; `digests` are the
    SHA-256 that the vector's files had, by their paths; `proof` is what its certificate says, if it has one.
    """

    steering_id: str
    source: str
    unit: str
    strength: float
    unit_placements: Plan
    target: float | None = None
    condition: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    proof: Proof | None = None

    @property
    def placements(self) -> Plan:
        """The placements at the strength that holds now."""
        return tuple(placement.scaled(self.strength) for placement in self.unit_placements)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it edits."""
        return tuple(dict.fromkeys(placement.site.layer for placement in self.unit_placements))


class Registry:
    """The applied handles in the order they were applied; snapshots are tuples."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: tuple[Applied, ...] = ()
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> tuple[Applied, ...]:
        """Return what is applied now."""
        return self._entries

    def plan(self) -> Plan:
        """Return all placements in order."""
        return tuple(placement for entry in self._entries for placement in entry.placements)

    def find(self, steering_id: str) -> Applied:
        """Return one handle, by its id or by the name of its vector's file, where only one is of that.

        Raises:
            UnknownSteeringIdError: It is not applied.
        """
        found = [entry for entry in self._entries if entry.steering_id == steering_id]
        named = [entry for entry in self._entries if PurePath(entry.source).stem == steering_id]
        if len(found or named) == 1:
            return (found or named)[0]
        applied = ", ".join(repr(entry.steering_id) for entry in self._entries)
        raise UnknownSteeringIdError(
            f"Nothing is applied under the steering_id {quoted(steering_id)}",
            valid=applied or "none, since nothing is applied now",
            fix="apply_steering_vector returns the id, steering_status lists all.",
        )

    def reserve(self) -> str:
        """Return a new handle."""
        with self._lock:
            self._count += 1
            return f"steer-{self._count}"

    def add(self, applied: Applied) -> Applied:
        """Append `applied`, under a new handle where it has none, and return it."""
        entry = applied if applied.steering_id else replace(applied, steering_id=self.reserve())
        with self._lock:
            self._entries = (*self._entries, entry)
        return entry

    def update(self, steering_id: str, strength: float) -> Applied:
        """Change the strength of a handle and return it."""
        with self._lock:
            changed = replace(self.find(steering_id), strength=strength)
            self._entries = tuple(changed if e.steering_id == changed.steering_id else e for e in self._entries)
        return changed

    def remove(self, steering_id: str) -> Applied:
        """Take a handle off and return it."""
        with self._lock:
            removed = self.find(steering_id)
            self._entries = tuple(e for e in self._entries if e.steering_id != removed.steering_id)
        return removed

    def restore(self, entries: tuple[Applied, ...]) -> None:
        """Put a snapshot back, when the engine refused what came after it."""
        with self._lock:
            self._entries = entries
