"""What every method's options share."""

from tuner.fields import Section


class MethodOptions(Section):
    """Base of the recipe's `method` section; each method adds its own keys."""

    name: str
