"""What the stages of a route are told: how to open, and how to go on in a later epoch. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from hearthring.client.route import Stage
from hearthring.protocol.messages import Open, Reroute


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a session wants of every stage, the same in every epoch."""

    model_id: str
    residual: str
    """What its rows are on every wire: a ``RowType``'s name."""
    max_rows: int
    nonce_hash: bytes
    taps: tuple[int, ...]
    sharing: int
    cells: bool


@dataclass(frozen=True, slots=True)
class Ordering:
    """One epoch of a session: ``client`` is its node id, ``ends`` its own numerics class."""

    session: bytes
    epoch: int
    route: Sequence[Stage]
    client: str
    ends: str

    def open(self, place: int, wishes: Wishes, silent: bool = False) -> Open:
        """For a stage that is new at this place of the route; ``silent`` until it is re-routed."""
        stage = self.route[place]
        previous, previous_fingerprint, next_, next_address = self._neighbours(place)
        return Open(
            session=self.session,
            epoch=self.epoch,
            model_id=wishes.model_id,
            start=stage.start,
            end=stage.end,
            residual=wishes.residual,
            fingerprint=stage.fingerprint,
            previous=previous,
            previous_fingerprint=previous_fingerprint,
            next=next_,
            next_address=next_address,
            max_rows=wishes.max_rows,
            nonce_hash=wishes.nonce_hash,
            taps=tuple(tap for tap in wishes.taps if stage.start < tap <= stage.end),
            sharing=wishes.sharing,
            cells=wishes.cells,
            silent=silent,
        )

    def stay(
        self, place: int, committed: tuple[int, ...], live: tuple[int, ...], compare: int = 0
    ) -> Reroute:
        """For a stage that stays at this place, with the rows that live."""
        return Reroute(self.epoch, *self._neighbours(place), committed, live, compare)

    def _neighbours(self, place: int) -> tuple[str, str, str, str]:
        """Who sends to a place, their class, who gets its rows, and where."""
        before = self.route[place - 1] if place else None
        after = self.route[place + 1] if place + 1 < len(self.route) else None
        return (
            before.node if before else self.client,
            before.fingerprint if before else self.ends,
            after.node if after else self.client,
            after.address if after else "",
        )
