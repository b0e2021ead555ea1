"""What notebooks build, held to the library: one comparison a name, raising where they differ."""

COMPARISONS = {}


def compares(name):
    """Register the function below as the comparison for `"notebook/name"`."""

    def register(function):
        COMPARISONS[name] = function
        return function

    return register
