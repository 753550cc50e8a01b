"""Studies: many training runs that answer one question, and the page that reports them.

A study trains several networks from several seeds under one recipe. Start with ``study.py``: it decides which runs to
train, and resumes or skips those that exist. ``compare.py`` and ``ablate.py`` run the two studies of this project.
``comparison.py`` computes the numbers of the first one, and ``comparison_tables.py`` writes its tables. ``recipes.py``
compares recipes, and ``widths.py`` measures what aggregation costs in compute, by the curves of ``power_law.py``.

``claims.py`` measures the claims of the SEANet talk on trained networks, with the functions of ``analysis.py``, and
gives a verdict on each. ``speed.py`` measures how fast networks train, and ``roofline.py`` computes how fast they could
train on an H100.

The figures are in ``curve_figures.py``, ``cost_figure.py``, ``ablation_figure.py``, ``widths_figure.py``
and ``claim_figures.py``.
``page.py`` writes docs/results.md from the records of the studies.
"""
