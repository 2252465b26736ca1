"""A case of a topic, as peers/<topic>.py lists them."""

from dataclasses import dataclass, field


@dataclass
class Case:
    name: str
    peer: str
    spec: dict = field(default_factory=dict)
    # The allocator settings that the peer is measured under.
    settings: tuple = ("default", "tuned")
    # Pairs of runs.
    repetitions: int = 9
    # Between the check values of both sides, relative to the largest.
    tolerance: float = 1e-4
    # Whether peak memory is reported as well; "working": beyond what the process holds once the case is prepared.
    memory: bool | str = False
