"""Reports on a comparison or a fit: `tables` computes, `page` and `fit_page` place, `html` and `console` lay out."""
