"""Reports on a comparison: `tables` computes, `plots` only draws, `html` and `console` lay out. Nothing measures."""
