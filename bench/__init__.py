"""`make bench`: what the bridge costs, beside a floor or a rival measured in the same run.

Absolute figures are those of one machine on one day; ratios last. So every figure is a ratio of two
things measured minutes apart on the same machine, the median of repeats, and the page that it ends
up in (docs/performance.md) names the machine.
"""
