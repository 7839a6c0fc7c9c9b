"""How sure a difference of scores is: resampled rows, intervals over rows and seeds, several comparisons at once.

Arrays in, numbers out: nothing here knows what a method, a task or a report is.
"""
