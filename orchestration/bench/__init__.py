"""What this machine can do, measured: our commands and kernels against the tools that do the same job.

`runner.measure` runs the groups of `groups.GROUPS` in one folder and returns a report that is ready for JSON. Both
sides of a row run alternately on the same bytes, with the page cache warm; the figure is the median of the rounds.
"""
