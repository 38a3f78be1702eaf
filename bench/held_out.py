"""What do drafts save on texts that they haven't seen?

Run: python -m bench.held_out FOLDER [--model smollm2] [--draft FILE] [--ahead 4] [--threads 1]

FOLDER is what `hearthring draft train` keeps beside its draft (``*.training``): texts of a model,
some held out. The ngrams draft remembers those that aren't; ``--draft`` is a trained draft. Tokens
a trip, by temperature: what chains of ``--ahead`` guesses would have got right, and one more; in
brackets the share of guesses that were right. No ring is run, so nothing hangs on speed.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from hearthring.client.corpus import Corpus
from hearthring.client.distilled import open_distilled
from hearthring.client.draft import Draft, Setting
from hearthring.client.held_out import AHEAD, held_out_rates
from hearthring.client.ngrams import NgramDraft, NgramStore
from hearthring.client.remembered import Remembered
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.client.several import SeveralDrafts
from hearthring.client.suffix import SuffixDraft
from hearthring.shards.store import ModelStore

Make = Callable[[Sampling], Draft]


def main() -> None:
    """One line for each draft."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--ahead", type=int, default=AHEAD)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    entry = ModelStore().find(options.model)
    model = PromptModel(entry, entry.open())
    samples = list(Corpus(options.folder).read())
    held = [one for one in samples if one.held]
    with tempfile.TemporaryDirectory() as folder:
        remembered = Remembered(Path(folder) / "texts.db")
        for one in samples:
            if not one.held:
                kept = entry.manifest.tokenizer, entry.model_id, entry.name
                remembered.add(*kept, one.ids.tolist())
        store = NgramStore(remembered, entry.manifest.tokenizer, entry.manifest.shape.vocabulary)
        ways: dict[str, Make] = {
            "suffix": lambda _: SuffixDraft(),
            "ngrams": lambda _: NgramDraft(store),
            "suffix+ngrams": lambda _: SeveralDrafts([SuffixDraft(), NgramDraft(store)]),
        }
        if options.draft is not None:
            path, shared = str(options.draft), dict[str, object]()
            ways["distilled"] = lambda sampling: open_distilled(
                Setting(model, sampling, options.threads, path, shared)
            )
        tokens = sum(len(one.ids) - one.prompt for one in held)
        print(f"{len(samples) - len(held)} texts seen, {len(held)} held out ({tokens} tokens)")
        for name, make in ways.items():
            found = held_out_rates(make, held, options.ahead)
            cells = "   ".join(
                f"T = {warm:g}: {rate.per_trip:.2f} ({rate.hits / max(1, rate.guesses):.0%})"
                for warm, rate in sorted(found.items())
            )
            print(f"{name:<14} {cells}")


if __name__ == "__main__":
    main()
