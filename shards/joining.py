"""What a newcomer asks a swarm first: which model there is, and the parts it needs of it."""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hearthring.protocol.asking import ask_records, ask_status, no_seed
from hearthring.protocol.asking_layers import LayersPeer
from hearthring.protocol.errors import HearthringError, ModelNotHere
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord, read, read_all
from hearthring.protocol.transport import Transport
from hearthring.shards.disk import budget, make_room
from hearthring.shards.fetch import Fetcher, Source
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Manifest, Progress, quiet
from hearthring.shards.parts import describe_parts, layers_in, size_of
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store import ModelEntry, ModelStore

DEFAULT = "smollm2"
HOLDERS = 4
"""Nodes asked per wanted layer, beside the seeds."""

Seeds = Sequence[Invitation]
Refused = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class _Offer:
    """A seed that serves the model that is wanted."""

    seed: Invitation
    record: NodeRecord


async def find_model(
    transport: Transport,
    seeds: Seeds,
    wish: str | None,
    store: ModelStore,
    progress: Progress = quiet,
) -> ModelEntry:
    """The model ``wish``, or without a wish the one that the first seed serves.

    What is on this machine is taken from there. Otherwise a seed is asked that serves a model of
    that name or id, and its manifest is adopted; the weights come later, part by part. Names are
    what the seed says, the id is what everything else is checked against. What no seed serves, or
    without seeds, is looked for as ``ModelStore.find`` does. Raises ``SeedUnreachable`` when a
    seed is needed and none answers, and what ``find`` raises.
    """
    if wish is not None and (entry := await asyncio.to_thread(store.here, wish, progress)):
        return entry
    if not seeds or (wish is not None and (wish.endswith(".gguf") or os.path.isabs(wish))):
        return await asyncio.to_thread(store.find, wish or DEFAULT, progress)
    offers = await _offers(transport, seeds)
    for offer in offers:
        model_id = offer.record.model_id
        if (
            wish is None
            or wish == offer.record.model_name
            or (len(wish) >= 6 and model_id.startswith(wish))
        ):
            entry = await asyncio.to_thread(store.here, model_id)
            return entry or await _adopt(transport, offers, offer.record, store)
    return await asyncio.to_thread(store.find, wish or DEFAULT, progress)


async def obtain(
    transport: Transport,
    seeds: Seeds,
    entry: ModelEntry,
    wanted: Iterable[str],
    progress: Progress = quiet,
    refused: Refused = lambda node, why: None,
) -> GgufFile:
    """Open a model with these parts of it here, fetched from peers where they aren't.

    The parts stay on the disk as long as what is returned lives. Raises ``ModelNotHere`` when
    nobody sends a part, and ``DiskFull`` when it doesn't fit the disk or ``HEARTHRING_DISK``.
    """
    opened = await asyncio.to_thread(entry.open)
    if not isinstance(opened, GgufPieces):
        return opened
    wanted = tuple(wanted)
    for part in set(wanted) & set(entry.parts.here()):
        with contextlib.suppress(ModelNotHere):  # evicted just now: it is fetched again
            await asyncio.to_thread(opened.hold, part)
    missing = entry.missing(wanted)
    if not missing:
        return opened
    if not seeds:
        be = "isn't" if len(missing) == 1 else "aren't"
        raise ModelNotHere(
            f"{describe_parts(missing)} of {entry.name} {be} on this machine",
            field="model",
            mend="give --join to fetch them from the swarm",
        )
    need = sum(size_of(entry.manifest, part) or 0 for part in missing)
    await asyncio.to_thread(make_room, entry.path.parents[1], need, budget())

    async def sources() -> list[Source]:
        return await _sources(transport, seeds, entry.model_id, missing)

    await Fetcher(transport, entry.parts, sources, progress, refused).fetch(missing, opened.hold)
    return opened


async def _offers(transport: Transport, seeds: Seeds) -> list[_Offer]:
    """What the seeds serve. Raises ``SeedUnreachable`` when none says."""
    replies = await asyncio.gather(
        *(ask_status(transport, seed) for seed in seeds), return_exceptions=True
    )
    offers, failed = list[_Offer](), list[tuple[Invitation, HearthringError]]()
    for seed, reply in zip(seeds, replies, strict=True):
        try:
            if isinstance(reply, BaseException):
                raise reply
            offers.append(_Offer(seed, read(reply.record)))
        except HearthringError as error:
            failed.append((seed, error))
    if not offers:
        raise no_seed(failed)
    return offers


async def _adopt(
    transport: Transport, offers: Sequence[_Offer], record: NodeRecord, store: ModelStore
) -> ModelEntry:
    """Fetch and check a manifest from any seed that serves the model."""
    failed = []
    for offer in offers:
        if offer.record.model_id != record.model_id:
            continue
        seed = offer.seed
        peer = LayersPeer(transport, seed.address, seed.node_id, record.model_id)
        try:
            manifest = Manifest.from_json(await peer.manifest())
        except HearthringError as error:
            failed.append(f"{seed.address}: {error.message}")
            continue
        finally:
            await peer.close()
        name = "".join(c for c in record.model_name if c.isprintable())[: LIMITS.name_chars]
        return await asyncio.to_thread(store.adopt, manifest, name or manifest.name)
    raise ModelNotHere(
        f"no seed sends the manifest of {record.model_id[:12]}…: {'; '.join(failed)}", field="join"
    )


async def _sources(
    transport: Transport, seeds: Seeds, model_id: str, wanted: Sequence[str]
) -> list[Source]:
    """The seeds, and of the nodes in the directory a few for each wanted layer."""
    found = {seed.node_id: Source(seed.node_id, seed.address) for seed in seeds}
    replies = await asyncio.gather(
        *(ask_records(transport, seed, model_id) for seed in seeds), return_exceptions=True
    )
    signed = [
        data for reply in replies if not isinstance(reply, BaseException) for data in reply.records
    ]
    records = await asyncio.to_thread(read_all, signed, model_id)
    random.shuffle(records)
    layers, holders = frozenset(layers_in(wanted)), Counter[int]()
    for record in records:
        held = record.layers & layers
        if record.addresses and (
            len(found) < HOLDERS or any(holders[layer] < HOLDERS for layer in held)
        ):
            found.setdefault(record.node, Source(record.node, record.addresses[0]))
            holders.update(held)
    found.pop(transport.identity.node_id, None)
    return list(found.values())
