"""Turn several trained models into one better predictor."""
