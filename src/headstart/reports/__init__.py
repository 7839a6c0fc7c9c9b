"""Reports on a comparison: `tables` computes, `plots` only draws, `html` and `console` only lay out."""
