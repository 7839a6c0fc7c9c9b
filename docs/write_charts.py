"""Draw the pictures of docs pages, most from tables beside them: `python docs/write_charts.py`. A test checks them."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # scripts, which are not part of the package
from drawing import Chart, Flow, Grid, Heat, Picture

__all__ = ["CHARTS"]

CHARTS: Sequence[Picture] = (
    Chart(
        "prompt-transfer.md", "prompt-rules", "NDCG of rules that rank soft prompts, with 95 % intervals over targets",
        "| rule | RoBERTa: ρ |", {"RoBERTa": (2, 0), "T5": (5, 0)}, 40, 100,
    ),
    Chart(
        "racing.md", "racing-lists", "How often the best of 500 modules is among the first of a cheap list, in percent",
        "| list | 50 | 100 | 250 |", {"50": (1, 0), "100": (2, 0), "250": (3, 0)}, 0, 100,
    ),
    Chart(
        "fit.md", "guard-power", "How often the guard uses the best start, in percent, by held-out rows",
        "| held-out rows |", {"it gains 0.1": (2, 0), "0.2": (3, 0), "0.4": (4, 0), "nothing helps": (1, 0)}, 0, 100,
    ),
    Chart(
        "choosing.md", "choosing", "Macro F1 on Financial PhraseBank, with 95 % intervals over test rows",
        "| method | before tuning |", {"before tuning": (1, 0), "tuned": (2, 0)}, 0, 1,
    ),
    Chart(
        "statistics.md", "coverage", "How often an interval of 95 % holds the truth, and false wins, in percent",
        "| setting | intervals", {"holds the truth": (1, 0), "false wins": (2, 0)}, 0, 100, 95,
    ),
    Chart(
        "benchmarks.md", "scoring", "Seconds to score 64 LoRA modules on 32 examples",
        "| | Headstart | loop over PEFT |", {"Headstart": (1, 0), "loop over PEFT": (2, 0)}, 0, 320,
    ),
    Heat(
        "transfer.md", "transfer", "What every start gives, in points of the metric over scratch", "| start | sst2 |",
        0.4,
    ),
    Flow(
        "your-data.md", "your-data", "From a table to what the model reads",
        [
            ["tickets.csv\nany columns", "a DataFrame\nor a list of dicts", "a folder\nwith task.json"],
            ["task\nwhich columns, labels,\nmetric, splits"],
            ["prompt\ntemplate and layout,\ntokenized as one text", "options\nthe labels, or those\nin the input"],
            ["answer\nthe likeliest option,\ncalibrated"],
        ],
        [
            ("tickets.csv", "task"), ("a DataFrame", "task"), ("a folder", "task"), ("task", "prompt"),
            ("task", "options"), ("prompt", "answer"), ("options", "answer"),
        ],
    ),
    Flow(
        "use.md", "use", "Where a tuned module can go",
        [
            ["headstart fit\nor tune"],
            ["module folder\na PEFT folder with a card"],
            ["headstart evaluate\nscores per class", "headstart predict\nanswers to new rows",
             "PEFT, vLLM\nas an adapter", "headstart export\n--merged: whole model"],
        ],
        [
            ("headstart fit", "module folder"), ("module folder", "headstart evaluate"),
            ("module folder", "headstart predict"), ("module folder", "PEFT, vLLM"),
            ("module folder", "headstart export"),
        ],
    ),
    Flow(
        "index.md", "road", "From a hub to a module for a new task",
        [
            ["hub\nmodules of\nother tasks", "task\na few\nexamples", "backbone\nfrozen"],
            ["rank\nall modules,\nin one pass"],
            ["blend\nweights from\nthe scores"],
            ["guard\ndoes it\nreally help?"],
            ["tune\nfrom what won"],
        ],
        [
            ("hub", "rank"), ("task", "rank"), ("backbone", "rank"), ("rank", "blend"), ("blend", "guard"),
            ("guard", "tune"),
        ],
    ),
    Flow(
        "hub.md", "hub", "What goes into a hub, and what is asked of it",
        [
            ["module folders\nPEFT or AdapterHub", "hf://owner/name\ndownloaded",
             "what fit, tune\nor ensemble saved"],
            ["hub add\nchecked, copied,\nnamed"],
            ["hub\nfolders, and a\ncatalogue of them"],
            ["list, check, edit\nwhat is in it", "search\nmodules like a task",
             "rank, compare, fit\nwhat helps a task"],
        ],
        [
            ("module folders", "hub add"), ("hf://owner/name", "hub add"), ("what fit, tune", "hub add"),
            ("hub add", "hub"), ("hub", "list, check, edit"), ("hub", "search"), ("hub", "rank, compare, fit"),
        ],
    ),
    Flow(
        "modules.md", "modules", "From a folder of modules to a tuned one",
        [
            ["runs/\nsaved by PEFT"],
            ["hub add\nchecked and\ncopied"],
            ["rank\non the new\ntask's rows"],
            ["ensemble\nby scores or\na recipe file"],
            ["tune\nfrom that\nstart"],
        ],
        [("runs/", "hub add"), ("hub add", "rank"), ("rank", "ensemble"), ("ensemble", "tune")],
    ),
    Flow(
        "search.md", "search", "From thousands of modules to a few, and then to one",
        [
            ["hub\nthousands"],
            ["vectors\nof every module,\ncomputed once"],
            ["search\nnearest to a task,\na module or words"],
            ["rank\nwhat was found, on\nthe task's examples"],
        ],
        [("hub", "vectors"), ("vectors", "search"), ("search", "rank")],
    ),
    Flow(
        "extending.md", "plug-ins", "What a package of yours can add, and where it is used",
        [
            ["kind\nhow a module computes", "indicator\na score for a task", "embedding\na vector for a task",
             "rule and space\nhow modules are blended", "metric, optimizer\nhow answers count, how to tune"],
            ["entry point\nin pyproject.toml"],
            ["headstart list\nwith --check", "commands\noptions, help, errors", "headstart.testing\nconformance tests"],
        ],
        [
            ("kind", "entry point"), ("indicator", "entry point"), ("embedding", "entry point"),
            ("rule and space", "entry point"), ("metric, optimizer", "entry point"),
            ("entry point", "headstart list"), ("entry point", "commands"), ("entry point", "headstart.testing"),
        ],
    ),
    Flow(
        "api.md", "api", "What goes into the functions, and what comes out",
        [
            ["Task", "Hub", "Backbone"],
            ["rank, search\nwhat helps", "ensemble\none start", "fit\nthe whole road"],
            ["Ranking\nscores", "Start\nnot yet tuned", "Fitted\nwith a verdict"],
            ["tune\nfrom a start"],
            ["Tuned\na module", "evaluate\npredict", "save_module\nsave_merged"],
        ],
        [
            ("Task", "rank, search"), ("Task", "ensemble"), ("Task", "fit"), ("Hub", "rank, search"),
            ("Hub", "ensemble"), ("Hub", "fit"), ("Backbone", "rank, search"), ("Backbone", "ensemble"),
            ("Backbone", "fit"), ("rank, search", "Ranking"), ("ensemble", "Start"), ("fit", "Fitted"),
            ("Start", "tune"), ("tune", "Tuned"), ("tune", "evaluate"), ("tune", "save_module"),
        ],
    ),
    Flow(
        "cli.md", "cli", "The commands, in the order in which most people meet them",
        [
            ["hub\ncollect modules", "task\ncheck your data"],
            ["fit\nthe whole road", "search, rank\nwhich modules help", "ensemble, tune\nstep by step"],
            ["compare\nis it worth it?", "evaluate\nscores per class", "predict\nnew rows", "export\nfor elsewhere"],
            ["store\nfinished work", "list\nwhat can be named"],
        ],
        [
            ("hub", "fit"), ("hub", "search, rank"), ("hub", "ensemble, tune"), ("task", "fit"),
            ("task", "search, rank"), ("task", "ensemble, tune"), ("fit", "compare"), ("fit", "evaluate"),
            ("fit", "predict"), ("fit", "export"), ("ensemble, tune", "compare"), ("ensemble, tune", "evaluate"),
            ("ensemble, tune", "predict"), ("ensemble, tune", "export"),
        ],
    ),
    Flow(
        "corpus.md", "corpus", "What happens to every altered module",
        [
            ["a sound module\nof any kind"],
            ["altered\nbits, names, files,\nfields, attacks"],
            ["loaded\nin another process"],
            ["refused\nnames the file", "loaded\u00a0right\nas in PEFT",
             "a defect\nwrong, or a crash"],
        ],
        [
            ("a sound module", "altered"), ("altered", "loaded"), ("loaded", "refused"),
            ("loaded", "loaded\u00a0right"), ("loaded", "a defect"),
        ],
    ),
    Flow(
        "limits.md", "limits", "Where files from other people are checked",
        [
            ["rows and task.json", "a module's folder", "words to search for"],
            ["size\nbefore it is read", "header\nas long as it states", "patterns\nwith a time limit"],
            ["an error\nfile, line, field, limit", "values\nnow in memory"],
        ],
        [
            ("rows and task.json", "size"), ("a module's folder", "size"), ("a module's folder", "header"),
            ("a module's folder", "patterns"), ("words to search for", "size"), ("size", "an error"),
            ("size", "values"), ("header", "an error"), ("header", "values"), ("patterns", "an error"),
            ("patterns", "values"),
        ],
    ),
    Flow(
        "methods.md", "methods", "From what is read of a module to the weights of a blend",
        [
            ["predictions\ntarget tokens", "hidden states\nand gradients", "projections\nof the backbone",
             "parameters\nno data at all"],
            ["indicator\nloss, cosine,\narrow, logme …", "embedding\ntupate, flat,\ncanonical …"],
            ["rule\nsoftmax, best,\nlearned …"],
            ["space\nparameters,\nexact, core …"],
            ["a start\nΣ w · O"],
        ],
        [
            ("predictions", "indicator"), ("hidden states", "indicator"), ("projections", "indicator"),
            ("parameters", "indicator"), ("hidden states", "embedding"), ("parameters", "embedding"),
            ("indicator", "rule"), ("embedding", "rule"),
            ("rule", "space"), ("space", "a start"),
        ],
    ),
    Flow(
        "recipes.md", "recipes", "Which settings act where in a tuning run",
        [
            ["a start\nkind and shape,\nor a module"],
            ["batch\nbatch_size,\nmax_input,\nmax_target"],
            ["step\noptimizer, lr,\nschedule, clip,\nwarmup_steps"],
            ["dev rows\neval_every,\nmax_dev, select,\npatience"],
            ["best state\nby max_steps\nor earlier"],
        ],
        [("a start", "batch"), ("batch", "step"), ("step", "dev rows"), ("dev rows", "best state")],
    ),
    Grid(
        "support.md", "support", "Kinds, families of backbones, and the folders that are read",
        "| kind | backbone | Headstart's own |", "exact", "refused",
    ),
)  # fmt: skip


def main() -> None:
    for chart in CHARTS:
        chart.path.write_text(chart.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
