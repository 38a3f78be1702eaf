"""What a ring should take for generated rows, before any has gone round: guesses may go at once."""

from collections.abc import Sequence

from hearthring.client.cost import Hop, Ring
from hearthring.client.pace import Trip
from hearthring.client.route import Stage
from hearthring.shards.timings import Fit


def outlook(route: Sequence[Stage], prompt: Sequence[Trip]) -> Ring | None:
    """Stage times as the nodes announce them, hops by what prompt steps took beside computing.

    The quickest prompt step counts, as waiting only adds; its rows take their time on the way too,
    so hops are rather too long than too short. None if a stage announces nothing, or no prompt step
    went through these stages.
    """
    stages = tuple(Fit(stage.step_seconds, stage.row_seconds) for stage in route)
    ways = [
        (trip.seconds - sum(time.compute + time.queue for time in trip.result.times))
        for trip in prompt
        if len(trip.result.times) == len(stages)
    ]
    if not ways or not all(stage.row > 0 for stage in stages):
        return None
    hop = Hop(max(0.0, min(ways)) / (len(stages) + 1))
    return Ring(stages, (hop,) * (len(stages) + 1))
