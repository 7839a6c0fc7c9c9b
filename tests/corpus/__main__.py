"""`python -m tests.corpus`: run the mutation corpus and show what became of it."""

import argparse
import json
import sys
from pathlib import Path

from tests.corpus.page import page, table
from tests.corpus.run import run_corpus


def main() -> int:
    """Run, print, and return 1 when any case loaded silently wrong or crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of the documentation")
    parser.add_argument("--seed", type=int, default=0, help="draw other mutations (default: 0)")
    parser.add_argument("--cases", type=int, default=2000, help="how many altered modules (default: 2000)")
    parser.add_argument("--folders", type=Path, nargs="+", default=[], help="modules to alter instead of made ones")
    parser.add_argument("--faults", action="store_true", help="describe every case that went wrong")
    options = parser.parse_args()
    try:
        corpus = run_corpus(cases=options.cases, seed=options.seed, folders=options.folders)
    except ValueError as error:
        parser.error(str(error))
    for line in corpus.left_out:
        sys.stderr.write(f"not altered: {line}\n")
    if options.markdown:
        options.markdown.write_text(page(corpus), encoding="utf-8")
    if options.faults:
        for finding in corpus.faults:
            case = finding.case
            sys.stderr.write(f"{finding.result}: {case.original.name}: {case.family}: {case.what}\n{finding.detail}\n")
    line = json.dumps({"cases": len(corpus.found), **corpus.counts, "seed": corpus.seed})
    sys.stdout.write(f"{line if options.json else table(corpus)}\n")
    return 1 if corpus.faults else 0


if __name__ == "__main__":
    sys.exit(main())
