"""What the service is measured against: the applications that one would otherwise write."""

MODEL_VARIABLE = "LOADTEST_MODEL"  # names the directory of the model that a baseline serves
