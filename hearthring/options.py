"""Options that several commands have."""

from typing import Annotated, Optional

import typer

JOIN = "An invitation that a node printed (repeat it for several)."

Join = Annotated[Optional[list[str]], typer.Option("--join", help=JOIN, metavar="INVITATION")]  # noqa: UP045
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="An alias, a GGUF file, or a model id.",
        show_default="what the invitation's node serves, else smollm2",
    ),
]
Threads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Processor threads.", envvar="HEARTHRING_THREADS", show_default="half"),
]
EndsEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What computes embedding and head here: auto (ggml for quantised weights, torch "
        "for others and for fp32 residuals), ggml or torch.",
    ),
]
NodeThreads = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="Processor threads of the engine.",
        envvar="HEARTHRING_THREADS",
        show_default="what measures fastest",
    ),
]
DiskBudget = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Most that fetched layers may take on this disk, such as 20GB; what was used the "
        "longest ago goes first.",
        metavar="SIZE",
        envvar="HEARTHRING_DISK",
        show_default="no limit",
    ),
]
Draft = Annotated[
    str,
    typer.Option(
        help="What guesses tokens to come: it changes the speed, and nothing of the answer. auto, "
        "none, suffix, ngrams, model:NAME, tli:NAME, slrs:NAME or staged:NAME (a small model "
        "here, by name or file), distilled (`hearthring draft train`), early-exit (models trained "
        "for it), or several joined by +, of which the best so far guesses.",
        metavar="NAME",
    ),
]
Pace = Annotated[
    str,
    typer.Option(
        help="How far guesses go: auto (as far as measured times and chances say that it pays), "
        "dyspec (the same in one step at a time, as a tree of the likeliest guesses), sequoia (the "
        "best tree for what guesses were worth so far), ucb or exp3 (what was tried and was "
        "fastest), or always as many guesses a step, such as 4, or in several steps at once, such "
        "as 2x4.",
        metavar="NAME",
    ),
]
Remember = Annotated[
    bool,
    typer.Option(
        "--remember",
        help="Keep the tokens of prompts and answers on this disk, readable by this user alone, to "
        "guess later answers from. `hearthring draft` shows them, and forgets them.",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        help="Seconds to wait for layers that nobody serves, at the begin or after a loss.",
        metavar="SECONDS",
    ),
]
ClassChange = Annotated[
    bool,
    typer.Option(
        "--allow-class-change",
        help="Go on with other kernels or precision where a lost stage can't be replaced by one "
        "that computes the same bits; answer and proof say from which token.",
    ),
]
Wire = Annotated[
    str,
    typer.Option(
        help="How rows travel: exact, or int8, about half the bytes of fp16, for slow links. int8 "
        "is lossy: answers may differ, and only machines of the nodes' own kind can audit them.",
        metavar="NAME",
    ),
]
Acceptance = Annotated[
    str,
    typer.Option(
        help="Rule by which guesses are taken: gumbel, leviathan, specinfer or sequoia. With any "
        "but the first, answers above temperature 0 depend on the guesses, too, and an audit can't "
        "replay how tokens were chosen.",
        metavar="RULE",
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain-speculation", help="Say on standard error what is guessed, and why."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
