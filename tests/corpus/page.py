"""The corpus as a table, and as a page of the documentation."""

from tests.corpus.dimensions import LARGEST
from tests.corpus.run import RESULTS, Corpus

__all__ = ["page", "table"]

HEADINGS = {
    "loaded_right": "loaded right", "refused": "refused", "silent_wrong": "silently wrong",
    "crashed": "crashed, hung or ran code",
}  # fmt: skip

INTRODUCTION = """\
# Broken and hostile modules

A module comes as a folder from somebody else. It may be cut short, edited, made for another backbone, or an attack.
Headstart has to load it correctly or refuse it with a message that names the file, tensor or field; it must never
crash, hang, run code, or load anything other than what the files say.

`python -m tests.corpus` alters sound modules of every kind and loads every altered copy in a separate process. The
modules are made for each run: saved by Headstart and by PEFT on language models and on encoders with task heads
(classification, regression, span), and written as AdapterHub's library and OpenDelta write theirs. What loads is
compared, on a tiny random backbone, with what PEFT itself or a plain formula computes from the same files, read by
the library safetensors or by torch's restricted load: the logits of a language model, or the hidden states of an
encoder and the answers of its task head. If an alteration does not change the function, the result must equal the
original's; if it leaves nothing to compute, the folder must be refused.

![What happens to every altered module](images/corpus.svg)
"""


def table(corpus: Corpus) -> str:
    """Families of mutations down, results across, in Markdown, with totals."""
    lines = [
        f"| alteration | cases | {' | '.join(HEADINGS[name] for name in RESULTS)} |",
        f"|---|{'---:|' * (len(RESULTS) + 1)}",
    ]
    for name, counts in {**corpus.by_family, "**all**": corpus.counts}.items():
        cells = [sum(counts.values()), *(counts[result] for result in RESULTS)]
        lines.append(f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    return "\n".join(lines)


def page(corpus: Corpus) -> str:
    """The page of the documentation."""
    command = f"python -m tests.corpus --seed {corpus.seed} --cases {len(corpus.found)}"
    return (
        f"{INTRODUCTION}\n{table(corpus)}\n\nThis table is written by `{command} --markdown docs/corpus.md`; another "
        "`--seed` draws other alterations. `--folders` alters modules of your own instead, wherever a backbone of at "
        f"most {LARGEST} units can be built for them; a folder that is not altered is named with the reason. The "
        "modules of the demonstration are too wide for that: what they are made of is altered at a smaller size.\n"
    )
