"""The main job in ten lines of Python, on what `make demo` fetched: `.venv/bin/python demo/ten_lines.py`."""

import headstart as hs

backbone = hs.Backbone.load(".cache/backbones/smollm2-135m")
task = hs.Task.load(".cache/tasks/sst2").few_shot(k=16, seed=0)
fitted = hs.fit(task, "demo/out/hub", backbone, test_rows=400, progress=hs.ProgressPrinter())
print(fitted.verdict.sentence)

print(fitted.ranking.frame()[["module", "cosine"]].head(3))
print(fitted.verdict.table[["method", "loss", "score"]])
print("bare backbone", hs.evaluate(None, task, backbone).score)
print("fitted", fitted.record.score)
print(hs.predict(fitted, [{"input": "a warm and funny film"}], backbone))
