"""The main job in ten lines of Python, on what `make demo` fetched: `.venv/bin/python demo/ten_lines.py`."""

import headstart as hs

backbone = hs.Backbone.load(".cache/backbones/smollm2-135m")
task = hs.Task.load(".cache/tasks/sst2").few_shot(k=16, seed=0)
hub = hs.Hub.open("demo/out/hub")

ranking = hs.rank(task, hub, backbone, indicators=["cosine", "loss"])
print(ranking.frame()[["module", "cosine", "loss"]].head(3))

start = hs.ensemble(task, hub, backbone, ranking=ranking, blend="softmax:indicator=cosine,temperature=0.1")
tuned = hs.tune(task, backbone, start=start.module, recipe="quick", name="sst2")
for module in (None, start.module, tuned.module):
    found = hs.evaluate(module, task, backbone)
    print(module.name if module else "bare backbone", found.score)
