"""What modules answer and how good it is: evaluation, prediction, calibration. Nothing here tunes or ranks."""
