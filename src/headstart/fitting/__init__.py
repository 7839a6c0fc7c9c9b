"""The whole road in one call, and its guard: whether a start is used is decided on rows that it has not seen."""
