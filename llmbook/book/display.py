"""Show something in a notebook with the data that the book reads back, or print it elsewhere."""

from IPython import get_ipython
from IPython.display import display


def publish(text, html=None, data=None):
    """Display `text` (and `html` where it can be shown), carrying `data` as extra MIME types."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        print(text)
        return
    bundle = {"text/plain": text, **(data or {})}
    if html is not None:
        bundle["text/html"] = html
    display(bundle, raw=True)
